"""Model arguments: `key=value,key=value`, checked before anything is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shiftdc_eval.core.errors import ConfigError

T = TypeVar("T", bound=BaseModel)


class AdapterArguments(BaseModel):
    """Arguments of the adapter itself; a defense adds its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pretrained: str
    """Hub id, local folder or bundled model."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Compute dtype; auto: float32 on a CPU, bfloat16 elsewhere."""
    device: str = "auto"
    """cpu, cuda, cuda:0 ... or auto."""
    device_map: str | None = None
    """`auto` shards one model over the devices."""
    attn_implementation: str | None = None
    """sdpa, eager, flash_attention_2."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""
    engine: Literal["auto", "plain", "fast"] = "auto"
    """plain: transformers' generate; fast: stored image prefixes and a static cache; auto: fast where it is exact."""
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


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the nearest known word, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def split_arguments(
    given: Mapping[str, Any], defense_fields: Mapping[str, Iterable[str]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the given arguments into the adapter's and the defense's.

    Args:
        given: argument name -> value.
        defense_fields: defense name -> names of its settings.

    Raises:
        ConfigError: no or an unknown defense, or an argument that neither knows.
    """
    defense = given.get("defense")
    if defense is None:
        raise ConfigError(f"model argument defense= is missing; one of: {', '.join(defense_fields)}")
    if defense not in defense_fields:
        raise ConfigError(
            f"model argument defense={defense} is unknown{nearest(str(defense), defense_fields)}; "
            f"one of: {', '.join(defense_fields)}"
        )
    own = set(AdapterArguments.model_fields)
    theirs = set(defense_fields[defense])
    for name in given:
        if name not in own | theirs:
            known = sorted(own | theirs)
            raise ConfigError(
                f"unknown model argument {name}{nearest(name, known)}; defense={defense} knows {', '.join(known)}"
            )
    adapter = {name: value for name, value in given.items() if name in own}
    return {**adapter, "defense": defense}, {name: v for name, v in given.items() if name in theirs}


def validated(model: type[T], values: Mapping[str, Any], *, what: str) -> T:
    """Build a model from user input; the error is one line that names the argument.

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][:1])
        if first["type"] == "missing":
            raise ConfigError(f"{what} {name}= is missing") from error
        said = f"{name}={first['input']}" if name else what
        raise ConfigError(f"{what} {said}: {first['msg'].removeprefix('Value error, ')}") from error
