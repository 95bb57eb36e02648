"""Loading a model with all of its weights: what a checkpoint lacks, transformers fills with random numbers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import ModelError, RecordError
from shiftdc_eval.core.json_files import parse_object, read_text

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
    return model


def folder_problems(folder: Path) -> Iterator[str]:
    """Settings in a model's folder that are no JSON objects, and shards that an index names but that are missing.

    Transformers goes on without a damaged generation_config.json: answers would end elsewhere.
    """
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
