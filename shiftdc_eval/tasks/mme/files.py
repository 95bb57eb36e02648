"""MME from the authors' release, from the hub, or from a downloaded copy of the hub repository."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.images import load_image
from shiftdc_eval.tasks.data import first_existing, image_file, local_or_hub, read_text, text_field
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.hub import Table, load_split, local_copy
from shiftdc_eval.tasks.mme.facts import DATASET, PERCEPTION, REVISION
from shiftdc_eval.tasks.mme.scoring import SUBTASKS

COLUMNS = ("question_id", "image", "question", "answer", "category")
SUFFIXES = (".png", ".jpeg")
"""Of images that are not .jpg."""
RELEASE = (
    "MME_Benchmark_release_version/MME_Benchmark",
    "MME_Benchmark_release_version",
    "MME_Benchmark",
    ".",
)
"""Where the subtask folders are in the authors' archives."""
REMEDY = (
    f"They are in the authors' release (github.com/BradyFU/Awesome-MLLM) and in the hub dataset {DATASET}."
)


def load(task: str, settings: Mapping[str, Any]) -> Source:
    """The questions from a local folder in either layout, else from the hub at the pinned revision.

    Raises:
        DataError: data missing or malformed.
    """
    return local_or_hub("mme", _from_folder, _from_hub)


def _from_hub() -> Source:
    return Source(_rows(load_split(DATASET, None, "test", REVISION, "mme")), DATASET, REVISION)


def _from_folder(folder: Path) -> Source | None:
    copy = local_copy(folder)
    if copy is not None:
        return Source(_rows(copy[0]), f"local copy of {DATASET}", copy[1])
    release = next(
        (folder / name for name in RELEASE if any((folder / name / task).is_dir() for task in SUBTASKS)), None
    )
    if release is None:
        return None
    present = [release / task for task in SUBTASKS if (release / task).is_dir()]
    examples = [example for subtask in present for example in _subtask(subtask)]
    texts = "\n".join(f"{one.id}\t{one.prompt}" for one in examples)
    revision = f"sha256:{hashlib.sha256(texts.encode()).hexdigest()}"
    return Source(examples, "local folder", revision, remedy=REMEDY)


def _rows(table: Table) -> list[Example]:
    examples = []
    for number, (where, row) in enumerate(table.rows(COLUMNS)):
        subtask, image, question, answer = (
            text_field(row, key, where) for key in ("category", "question_id", "question", "answer")
        )
        examples.append(_example(subtask, image, question, answer, table.image(number), where))
    return examples


def _subtask(folder: Path) -> Iterator[Example]:
    questions = first_existing(folder, "questions_answers_YN") or folder
    images = first_existing(folder, "images") or folder
    for path in sorted(questions.glob("*.txt")):
        image, exists = image_file(images, f"{path.stem}.jpg", SUFFIXES)
        for line, text in enumerate(read_text(path).splitlines(), start=1):
            where = f"{path}, line {line}"
            question, tab, answer = text.partition("\t")
            if not tab:
                raise DataError(f"{where}: expected a question, a tab and an answer, found {text!r:.200}")
            example = _example(
                folder.name,
                f"{folder.name}/{image.name}",
                question,
                answer,
                partial(load_image, image),
                where,
            )
            yield example if exists else replace(example, absent=image)


def _example(
    subtask: str, image: str, question: str, answer: str, load: Callable[[], Image.Image], where: str
) -> Example:
    label = answer.strip().lower()
    if label not in ("yes", "no"):
        raise DataError(f"{where}: the answer must be yes or no, found {answer!r:.200}")
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
