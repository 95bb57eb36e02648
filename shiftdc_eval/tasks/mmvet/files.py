"""MM-Vet from the authors' files, from the hub, or from a downloaded copy of the hub repository."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
from PIL import Image

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.tasks.data import first_existing, image_loader, read_json, text_field
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.hub import (
    image_cell,
    load_split,
    local_copy,
    require_columns,
    resolve_revision,
    without_images,
)
from shiftdc_eval.tasks.mmvet.facts import DATASET

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
COLUMNS = ("question_id", "image", "question", "answer", "capability")


def from_hub() -> Source:
    """The hub dataset, at a revision that is resolved once and recorded.

    Raises:
        DataError: it cannot be loaded or is malformed.
    """
    revision = resolve_revision(DATASET, "mmvet")
    return Source(_rows(load_split(DATASET, None, "test", revision, "mmvet"), DATASET), DATASET, revision)


def from_folder(folder: Path) -> Source | None:
    """The local folder in either layout; None when it is in neither.

    Raises:
        DataError: malformed, or images are missing.
    """
    table = first_existing(folder, "mm-vet.json", "mm-vet/mm-vet.json", "data/mm-vet.json")
    if table is not None:
        return Source(_items(table), "local folder", f"sha256:{file_sha256(table)}")
    copy = local_copy(folder)
    if copy is None:
        return None
    rows, where, revision = copy
    return Source(_rows(rows, where), f"local copy of {DATASET}", revision)


def read_items(table: Path) -> list[tuple[str, dict[str, str], list[str]]]:
    """Id, texts (`imagename`, `question`, `answer`) and capabilities of every item of the authors' file.

    Raises:
        DataError: names the file and the item.
    """
    items = []
    for name, row in read_json(table, dict).items():
        where = f"{table}, item {name}"
        texts = {key: text_field(row, key, where) for key in ("imagename", "question", "answer")}
        items.append((name, texts, _capabilities(row.get("capability"), where)))
    return items


def _items(table: Path) -> list[Example]:
    images = first_existing(table.parent, "images") or table.parent
    examples, missing = [], []
    for name, texts, capabilities in read_items(table):
        path = images / texts["imagename"]
        if not path.is_file():
            missing.append(path)
        examples.append(_example(name, texts["question"], texts["answer"], capabilities, image_loader(path)))
    if missing:
        raise DataError(
            f"shiftdc_mmvet: the images of {len(missing)} of {len(examples)} items are missing, the first is "
            f"{missing[0]}. They are in the authors' archive mm-vet.zip (github.com/yuweihao/MM-Vet)."
        )
    return examples


def _rows(table: datasets.Dataset, where: str) -> list[Example]:
    require_columns(table, COLUMNS, where)
    examples = []
    for number, row in enumerate(without_images(table)):
        place = f"{where}, row {number}"
        name, question, answer = (
            text_field(row, key, place) for key in ("question_id", "question", "answer")
        )
        capabilities = _capabilities(text_field(row, "capability", place).split(","), place)
        image = image_cell(table, number, where)
        examples.append(_example(name, question, answer, capabilities, image))
    return examples


def _capabilities(found: object, where: str) -> list[str]:
    names = [str(name).strip() for name in found] if isinstance(found, list) else []
    if not names or any(name not in CAPABILITIES for name in names):
        raise DataError(
            f"{where}: capability must be a list out of {', '.join(CAPABILITIES)}, found {found!r}"
        )
    return sorted(names)


def _example(
    name: str, question: str, answer: str, capabilities: Sequence[str], image: Callable[[], Image.Image]
) -> Example:
    combination = "_".join(capabilities)
    return Example(
        id=f"mmvet/{name}",
        question=f"mmvet/{name}",
        prompt=question,
        request=question,
        scenario=combination,
        reference=answer,
        groups={"combination": combination} | {f"capability_{name}": name for name in capabilities},
        image=image,
    )
