"""Loading a model with all of its weights: what a checkpoint lacks, transformers fills with random numbers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import ModelError, RecordError
from shiftdc_eval.core.json_files import parse_object, read_text

SETTINGS = re.compile(r'"(?:quantization|compression)_config"\s*:\s*\{')
"""How config.json says that a model is quantised."""
INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32")
"""Types of safetensors that hold packed or scaled numbers where weights are meant."""
NAMED = 3
"""Weights that an error names of each kind."""


def load_whole(
    loader: Any, source: Any, *, absent: Sequence[str] = (), unused: Sequence[str] = (), **options: Any
) -> Any:
    """A model of transformers, once it is sure that its checkpoint gave it every weight.

    Args:
        loader: class with `from_pretrained`.
        source: hub id or folder.
        absent: patterns of weights that the checkpoint may lack.
        unused: patterns of weights in the checkpoint that the model may have no place for.
        options: of `from_pretrained`.

    Raises:
        ModelError: weights are missing, unexpected or of another shape; one line with numbers and names.
    """
    quiet = logging.getLogger("transformers.modeling_utils")
    quiet.addFilter(_no_report)
    try:
        model, found = loader.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    finally:
        quiet.removeFilter(_no_report)
    shapes = [f"{name} {list(got)} for {list(wanted)}" for name, got, wanted in found["mismatched_keys"]]
    wrong = {
        "missing": _without(found["missing_keys"], absent),
        "unexpected": _without(found["unexpected_keys"], unused),
        "of another shape": sorted(shapes),
    }
    if said := ", ".join(f"{len(names)} {kind} ({_named(names)})" for kind, names in wrong.items() if names):
        raise ModelError(
            f"the weights in {source} are not those of {type(model).__name__}: {said}; missing ones would be random "
            "numbers: repair the checkpoint, or load it with the version of transformers that it was made with"
        )
    if not Path(source).is_dir() and (whole := [*_without_scales(_snapshot(source, options))]):
        raise ModelError(f"cannot load {source}: {whole[0]}")
    return model


def _snapshot(source: Any, options: Mapping[str, Any]) -> Path | None:
    """Folder in the hub's cache that a model was loaded from."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(str(source), "config.json", revision=options.get("revision"))
    return Path(found).parent if isinstance(found, str) else None


def _without_scales(folder: Path | None) -> Iterator[str]:
    """Weights that are stored as integers while nothing says what they stand for: they would be plain numbers."""
    if folder is None or SETTINGS.search(
        (folder / "config.json").read_text(encoding="utf-8", errors="replace")
    ):
        return
    kinds: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            kinds |= {name: one["dtype"] for name, one in header.items() if name != "__metadata__"}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError):
            return  # damaged: loading says so
    if whole := [
        f"{name} {kind}" for name, kind in kinds.items() if kind in INTEGERS and name.endswith("weight")
    ]:
        yield (
            f"{len(whole)} weights are integers ({_named(whole)}) and config.json has no quantization_config that says "
            "what they stand for: save the model again with its settings, or take the original"
        )


def folder_problems(folder: Path) -> Iterator[str]:
    """Settings in a model's folder that are no JSON objects, integers that they do not tell of, and missing shards.

    Transformers goes on without a damaged generation_config.json: answers would end elsewhere.
    """
    if (folder / "config.json").is_file():
        yield from _without_scales(folder)
    indices = sorted(folder.glob("*.index.json"))
    for path in (folder / "config.json", folder / "generation_config.json", *indices):
        if not path.is_file():
            continue
        try:
            content = parse_object(read_text(path), path.name)
        except RecordError as error:
            yield str(error)
            continue
        if path not in indices:
            continue
        shards = content.get("weight_map")
        if not isinstance(shards, dict) or not shards:
            yield f"{path.name}: it names no weights (weight_map)"
        elif missing := sorted({str(one) for one in shards.values() if not (folder / str(one)).is_file()}):
            yield f"{path.name} names files that are not there: {_named(missing)}; fetch them again"


def _no_report(record: logging.LogRecord) -> bool:
    """Leave out transformers' table of weights, which the error says in one line."""
    return "LOAD REPORT" not in str(record.msg)


def _without(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    return sorted(name for name in names if not any(re.search(pattern, name) for pattern in patterns))


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
