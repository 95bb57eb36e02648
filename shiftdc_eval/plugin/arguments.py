"""Model arguments: `key=value,key=value`, checked before anything is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.model_spec import ModelArguments
from shiftdc_eval.core.validation import nearest, validated

__all__ = ["AdapterArguments", "nearest", "parse_pairs", "split_arguments", "validated"]


class AdapterArguments(ModelArguments):
    """The model's arguments and the adapter's; a defense adds its own."""

    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    """Requests answered together; auto: found from a GPU's free memory, else 32; halved when memory runs out."""
    max_batch_size: int | None = Field(default=None, ge=1)
    """Upper bound of batch_size=auto (default 288 on a GPU, else 32)."""
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
    languages: str = ""
    """Languages that answers are expected in (ISO 639 codes joined by +), for the default judges of the tasks."""
    use_cache: bool = True
    """Decode with a KV cache."""

    @model_validator(mode="after")
    def _all_count(self) -> Self:
        if self.max_batch_size is not None and self.batch_size != "auto":
            raise ValueError(
                f"max_batch_size={self.max_batch_size} has no effect with batch_size={self.batch_size}; use it with "
                "batch_size=auto, or set batch_size alone"
            )
        if self.engine == "server" and (self.batch_size not in (1, "auto") or not self.use_cache):
            raise ValueError(
                "batch_size and use_cache belong to a model that is loaded here; concurrency= says how many requests "
                "to a server are in flight"
            )
        if not self.use_cache and self.engine == "vllm":
            raise ValueError(
                "use_cache=false belongs to engine=transformers; vLLM always decodes with a KV cache"
            )
        return self


DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "shiftdc_llava": {"pretrained": "llava-hf/llava-1.5-7b-hf", "defense": "shiftdc"},
    "shiftdc_vlm": {},
    "shiftdc_server": {"engine": "server"},
}
"""Model id -> arguments used where the user gives none."""
PAIR = re.compile(r"""\s*([^=,"]*?)\s*=\s*(?:"((?:[^"]|"")*)"\s*|([^",][^,]*)?)(?:,|$)""")
"""`key=value`, or `key="value"` where a comma stands in the value and `""` is a quote."""


def parse_pairs(text: str) -> dict[str, str]:
    """Split `key=value,key="value, with a comma"`.

    Raises:
        ConfigError: a piece without `=`, a quote that is not closed, or a key given twice.
    """
    pairs: dict[str, str] = {}
    place = 0
    while place < len(text):
        if text[place] in ", ":
            place += 1
            continue
        found = PAIR.match(text, place)
        if found is None:
            piece = text[place:].partition(",")[0]
            if '="' in piece:
                raise ConfigError(
                    f"--model_args: the quote of {piece.partition('=')[0]}= is not closed, or something follows it"
                )
            raise ConfigError(
                f"--model_args: {piece.strip()!r} has no '='; write key=value,key=value, ranges as 10-31, and a "
                'value with a comma in double quotes: key="a, b"'
            )
        key, quoted_value, value = found.groups()
        if key in pairs:
            raise ConfigError(f"--model_args: {key} is given twice")
        pairs[key] = (value or "").strip() if quoted_value is None else quoted_value.replace('""', '"')
        place = found.end()
    return pairs


def written_pairs(values: Mapping[str, object]) -> str:
    """The text that `parse_pairs` reads."""
    return ",".join(f"{name}={_written(str(value))}" for name, value in values.items())


def _written(value: str) -> str:
    plain = "," not in value and not value.startswith('"') and value == value.strip()
    doubled = value.replace('"', '""')
    return value if plain else f'"{doubled}"'


def split_arguments(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the given arguments into the adapter's and the defense's.

    Raises:
        ConfigError: no or an unknown defense, or an argument that neither knows.
    """
    from shiftdc_eval.defenses.arguments import split

    return split(given, AdapterArguments.model_fields, what="model argument")
