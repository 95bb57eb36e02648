"""MM-Vet from the authors' files, from the hub, or from a downloaded copy of the hub repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.core.images import load_image
from shiftdc_eval.tasks.data import first_existing, image_file, local_or_hub, read_json, text_field
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.hub import Table, load_split, local_copy, resolve_revision
from shiftdc_eval.tasks.mmvet.facts import DATASET

CAPABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
COLUMNS = ("question_id", "image", "question", "answer", "capability")
REMEDY = "They are in the authors' archive mm-vet.zip (github.com/yuweihao/MM-Vet)."


def load(task: str, settings: Mapping[str, Any]) -> Source:
    """The items from a local folder in either layout, else from the hub.

    Raises:
        DataError: data missing or malformed.
    """
    return local_or_hub("mmvet", _from_folder, _from_hub)


def _from_hub() -> Source:
    revision = resolve_revision(DATASET, "mmvet")  # resolved once and recorded
    return Source(_rows(load_split(DATASET, None, "test", revision, "mmvet")), DATASET, revision)


def _from_folder(folder: Path) -> Source | None:
    table = first_existing(folder, "mm-vet.json", "mm-vet/mm-vet.json", "data/mm-vet.json")
    if table is not None:
        return Source(_items(table), "local folder", f"sha256:{file_sha256(table)}", remedy=REMEDY)
    copy = local_copy(folder)
    return copy and Source(_rows(copy[0]), f"local copy of {DATASET}", copy[1])


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
    examples = []
    for name, texts, capabilities in read_items(table):
        file, exists = image_file(images, texts["imagename"])
        example = _example(name, texts["question"], texts["answer"], capabilities, partial(load_image, file))
        examples.append(example if exists else replace(example, absent=file))
    return examples


def _rows(table: Table) -> list[Example]:
    examples = []
    for number, (where, row) in enumerate(table.rows(COLUMNS)):
        name, question, answer = (
            text_field(row, key, where) for key in ("question_id", "question", "answer")
        )
        capabilities = _capabilities(text_field(row, "capability", where).split(","), where)
        examples.append(_example(name, question, answer, capabilities, table.image(number)))
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
