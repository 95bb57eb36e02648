"""Model arguments: `key=value,key=value`, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.model_spec import ModelArguments
from shiftdc_eval.core.validation import nearest, validated

__all__ = ["AdapterArguments", "nearest", "parse_pairs", "split_arguments", "validated"]


class AdapterArguments(ModelArguments):
    """The model's arguments and the adapter's; a defense adds its own."""

    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    """Requests answered together; auto: found from a GPU's free memory, else 32; halved when memory runs out."""
    max_batch_size: int | None = Field(default=None, ge=1)
    """Upper bound of batch_size=auto (default 256 on a GPU, else 32)."""
    defense: str
    """Name of the defense."""
    direction: Path | None = None
    """Safety direction file; fitted and cached when not given."""
    contrast: Path | None = None
    """Contrast set to fit the direction on; the built-in one when not given."""
    journal: Path | None = None
    """Folder of the journal and the run record."""
    system_prompt: str = ""
    """System prompt of every chat."""
    seed: int = Field(default=0, ge=0)
    """Seed of sampling."""
    ablation: str = ""
    """Why this run is an ablation or a control: its cells are shown as such and never rank."""
    use_cache: bool = True
    """Decode with a KV cache."""


def parse_pairs(text: str) -> dict[str, str]:
    """Split `key=value,key=value`.

    Raises:
        ConfigError: a piece without `=`, or a key given twice.
    """
    pairs: dict[str, str] = {}
    for piece in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = piece.partition("=")
        if not equals:
            raise ConfigError(
                f"--model_args: {piece!r} has no '='; write key=value,key=value and ranges as 10-31"
            )
        if key.strip() in pairs:
            raise ConfigError(f"--model_args: {key.strip()} is given twice")
        pairs[key.strip()] = value.strip()
    return pairs


def split_arguments(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the given arguments into the adapter's and the defense's.

    Raises:
        ConfigError: no or an unknown defense, or an argument that neither knows.
    """
    from shiftdc_eval.defenses.arguments import split

    return split(given, AdapterArguments.model_fields, what="model argument")
