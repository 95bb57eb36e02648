"""VLSBench from the authors' files, or from the hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.core.images import load_image
from shiftdc_eval.judges.text import is_blank
from shiftdc_eval.tasks.data import (
    first_existing,
    image_file,
    local_or_hub,
    read_json,
    text_field,
    whole_number,
)
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.hub import load_split
from shiftdc_eval.tasks.vlsbench.facts import DATASET, REVISION

TEXTS = ("image_path", "category", "sub_category", "source", "image_description")
NO_INSTRUCTION = "no_instruction"
"""Flag of an item whose instruction is empty: it is asked as it is, and its judge leaves it unscored."""
REMEDY = f"They are in imgs.tar of the hub dataset {DATASET}."


def load(task: str, settings: Mapping[str, Any]) -> Source:
    """The items from a local folder, else from the hub at the pinned revision.

    Raises:
        DataError: data missing or malformed.
    """
    return local_or_hub("vlsbench", _from_folder, _from_hub)


def _from_folder(folder: Path) -> Source | None:
    path = first_existing(folder, "data.json", "data/data.json")
    if path is None:
        return None
    examples = []
    for number, row in enumerate(read_json(path, list), start=1):
        example, image = _example(row, f"{path}, item {number}")
        below = next((root for root in (folder, folder / "data") if (root / image).is_file()), folder)
        file, exists = image_file(below, image)
        examples.append(replace(example, image=partial(load_image, file), absent=None if exists else file))
    return Source(examples, "local folder", f"sha256:{file_sha256(path)}", remedy=REMEDY)


def _from_hub() -> Source:
    table = load_split(DATASET, None, "train", REVISION, "vlsbench")
    examples = []
    for number, (where, row) in enumerate(table.rows(("instruction_id", "instruction", *TEXTS, "image"))):
        example, _ = _example(row, where)
        examples.append(replace(example, image=table.image(number)))
    return Source(examples, DATASET, REVISION)


def _example(row: Any, where: str) -> tuple[Example, str]:
    """The item without its image, and the path of that."""
    image, category, sub_category, source, description = (text_field(row, name, where) for name in TEXTS)
    instruction = row.get("instruction")
    if not isinstance(instruction, str):
        raise DataError(f"{where}: instruction must be a text, found {instruction!r:.200}")
    number = whole_number(row, "instruction_id", where)
    return Example(
        id=f"vlsbench/{number}",
        question=f"vlsbench/{image}",  # items on one image are not independent
        prompt=instruction,
        request=instruction,
        scenario=category,
        groups={"category": category, "sub_category": sub_category, "source": source},
        flags=(NO_INSTRUCTION,) if is_blank(instruction) else (),
        image_text=description,
    ), image
