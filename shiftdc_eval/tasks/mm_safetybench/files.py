"""MM-SafetyBench from wherever it is: a local folder in the authors' or the hub's layout, else the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.tasks.data import first_existing, local_or_hub
from shiftdc_eval.tasks.example import Source
from shiftdc_eval.tasks.mm_safetybench import authors_files, hub
from shiftdc_eval.tasks.mm_safetybench.scenarios import KINDS, RequestKind


def load(task: str, settings: Mapping[str, Any]) -> Source:
    """The questions of one kind, all of them or the authors' tiny version.

    Raises:
        DataError: data missing or malformed.
        ConfigError: unknown kind or subset.
    """
    kind, subset = settings.get("kind"), settings.get("subset", "full")
    if kind not in KINDS or subset not in ("full", "tiny"):
        raise ConfigError(
            f"{task}: kind must be one of {', '.join(KINDS)} and subset full or tiny, found {kind!r} and {subset!r}"
        )
    source = local_or_hub(
        "mm_safetybench", partial(_from_folder, KINDS[kind]), partial(hub.load, None, KINDS[kind])
    )
    if subset == "full":
        return source
    ids = authors_files.tiny_ids()
    absent = ids - {example.question for example in source.examples}
    if absent:
        raise DataError(f"{task}: {sorted(absent)[0]} of the tiny list is not among the questions")
    return replace(source, examples=[one for one in source.examples if one.question in ids])


def _from_folder(kind: RequestKind, folder: Path) -> Source | None:
    questions = first_existing(folder, "processed_questions", "data/processed_questions")
    if questions is not None:
        return authors_files.load(folder, questions, kind)
    return hub.load(folder, kind) if hub.is_hub_copy(folder) else None
