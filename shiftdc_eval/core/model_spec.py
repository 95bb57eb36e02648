"""Which model, and how it is loaded: the model arguments that every command shares."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator


class ModelArguments(BaseModel):
    """Which model, and how to load it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pretrained: str
    """Hub id, local folder, or the name of a bundled model (`toy`, `smol`)."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute dtype; `auto`: float32 on a CPU, bfloat16 elsewhere."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, or `auto`: a GPU where there is one."""
    device_map: str | None = None
    """`auto` shards one large model over the devices."""
    attn_implementation: str | None = None
    """`sdpa`, `eager`, `flash_attention_2`; the model's default when None."""
    trust_remote_code: bool = False
    """Run code that comes with the model; only when the user says so for this model."""
    engine: Literal["auto", "plain", "fast"] = "auto"
    """`plain`: transformers' `generate`; `fast`: stored image prefixes and a static cache; `auto`: fast where it is
    exact."""

    @field_validator("pretrained", "revision")
    @classmethod
    def _no_address(cls, value: str | None) -> str | None:
        if value and "://" in value:  # it would be written down with the user name and password in it
            raise ValueError("an address is neither a hub id or folder nor a branch, tag or commit")
        return value


class ModelSpec(ModelArguments):
    """Which model, and how to load it, written in Python: `ModelSpec("toy", device="cpu")`."""

    dtype: str = "auto"  # type: ignore[assignment]  # an unknown one is refused by `load_backbone`
    """Compute dtype; `auto`: float32 on a CPU, bfloat16 elsewhere."""

    def __init__(self, pretrained: str, **options: Any) -> None:
        super().__init__(pretrained=pretrained, **options)
