"""MME from the authors' release, from the hub, or from a downloaded copy of the hub repository."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import datasets
from PIL import Image

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.tasks.data import first_existing, image_loader, text_field
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.hub import image_cell, load_split, local_copy, require_columns, without_images
from shiftdc_eval.tasks.mme.facts import DATASET, REVISION
from shiftdc_eval.tasks.mme.scoring import PERCEPTION, SUBTASKS

COLUMNS = ("question_id", "image", "question", "answer", "category")
SUFFIXES = (".jpg", ".png", ".jpeg")
RELEASE = (
    "MME_Benchmark_release_version/MME_Benchmark",
    "MME_Benchmark_release_version",
    "MME_Benchmark",
    ".",
)
"""Where the subtask folders are in the authors' archives."""


def from_hub() -> Source:
    """The hub dataset at the pinned revision.

    Raises:
        DataError: it cannot be loaded or is malformed.
    """
    table = load_split(DATASET, None, "test", REVISION, "mme")
    return Source(_rows(table, DATASET), DATASET, REVISION)


def from_folder(folder: Path) -> Source | None:
    """The local folder in either layout; None when it is in neither.

    Raises:
        DataError: malformed.
    """
    copy = local_copy(folder)
    if copy is not None:
        table, where, revision = copy
        return Source(_rows(table, where), f"local copy of {DATASET}", revision)
    release = next(
        (folder / name for name in RELEASE if any((folder / name / task).is_dir() for task in SUBTASKS)), None
    )
    if release is None:
        return None
    examples = [
        example for task in SUBTASKS if (release / task).is_dir() for example in _subtask(release / task)
    ]
    texts = "\n".join(f"{one.id}\t{one.prompt}" for one in examples)
    return Source(examples, "local folder", f"sha256:{hashlib.sha256(texts.encode()).hexdigest()}")


def _rows(table: datasets.Dataset, where: str) -> list[Example]:
    require_columns(table, COLUMNS, where)
    examples = []
    for number, row in enumerate(without_images(table)):
        place = f"{where}, row {number}"
        subtask = text_field(row, "category", place)
        image = text_field(row, "question_id", place)
        question, answer = text_field(row, "question", place), text_field(row, "answer", place)
        examples.append(_example(subtask, image, question, answer, image_cell(table, number, where), place))
    return examples


def _subtask(folder: Path) -> list[Example]:
    questions = first_existing(folder, "questions_answers_YN") or folder
    images = first_existing(folder, "images") or folder
    examples = []
    for path in sorted(questions.glob("*.txt")):
        image = next((f for s in SUFFIXES if (f := images / f"{path.stem}{s}").is_file()), None)
        if image is None:
            raise DataError(f"mme: {path} has no image {images / path.stem}{SUFFIXES[0]} or {SUFFIXES[1]}")
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            place = f"{path}, line {line}"
            question, tab, answer = text.partition("\t")
            if not tab:
                raise DataError(f"{place}: expected a question, a tab and an answer, found {text!r}")
            name = f"{folder.name}/{image.name}"
            examples.append(_example(folder.name, name, question, answer, image_loader(image), place))
    return examples


def _example(
    subtask: str, image: str, question: str, answer: str, load: Callable[[], Image.Image], where: str
) -> Example:
    label = answer.strip().lower()
    if label not in ("yes", "no"):
        raise DataError(f"{where}: the answer must be yes or no, found {answer!r}")
    if subtask not in SUBTASKS:
        raise DataError(f"{where}: {subtask!r} is none of MME's subtasks ({', '.join(SUBTASKS)})")
    name = image if image.startswith(f"{subtask}/") else f"{subtask}/{image}"
    return Example(
        id=f"mme/{name}#{label}",
        question=f"mme/{name}",
        prompt=question,
        request=question,
        scenario=subtask,
        reference=label,
        groups={"subtask": subtask, "part": "perception" if subtask in PERCEPTION else "cognition"},
        image=load,
    )
