"""Which model, and how it is loaded: the model arguments that every command shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and how to load it."""

    pretrained: str
    """Hub id, local folder, or the name of a bundled model (`toy`, `smol`)."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: str = "auto"
    """`float32`, `bfloat16`, `float16`, or `auto`: float32 on a CPU, bfloat16 elsewhere."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, or `auto`: a GPU where there is one."""
    device_map: str | None = None
    """`auto` shards one large model over the devices."""
    attn_implementation: str | None = None
    """`sdpa`, `eager`, `flash_attention_2`; the model's default when None."""
    trust_remote_code: bool = False
    """Run code that comes with the model; only when the user says so for this model."""
    engine: Literal["auto", "plain", "fast"] = "auto"
    """`plain` is transformers' `generate`; `fast` is this package's engine; `auto` is fast where it is exact."""
