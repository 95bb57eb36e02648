"""The items of the benchmarks that training must not see, read from the folder that `SHIFTDC_DATA` names.

Only what is an item's own content: questions, instructions, key phrases. The fixed prompts that a
benchmark puts beside its images (FigStep's "The image shows a list ...", MM-SafetyBench's "Rephrased
Question") name no topic, and a model has to learn to read images under them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.tasks.data import first_existing, read_csv, read_json, text_field


@dataclass(frozen=True)
class EvalItem:
    """One text of a benchmark."""

    dataset: str
    """Folder of the benchmark below the data folder."""
    id: str
    """Id within the benchmark, with the field it stands in."""
    text: str
    """The text, verbatim."""


def eval_items(data: Path) -> list[EvalItem]:
    """The texts of every benchmark whose files are in `data`, in a fixed order, without repeats.

    Raises:
        DataError: no benchmark is there, or a file is malformed.
    """
    if not data.is_dir():
        raise DataError(
            f"{data} is not a folder; give the one that holds figstep/, xstest/ ... (SHIFTDC_DATA)"
        )
    found = [item for name, read in READERS.items() for item in _read(read, data / name)]
    if not found:
        raise DataError(f"{data} holds none of {', '.join(READERS)}; nothing would be checked")
    found += [EvalItem("twins", str(number), text) for number, text in enumerate(twins(), start=1)]
    own = [text for texts in headings().values() for text in texts]
    found += [EvalItem("headings", str(number), text) for number, text in enumerate(own, start=1)]
    return list({(item.dataset, item.text): item for item in reversed(found)}.values())[::-1]


def twins() -> list[str]:
    """Benign headings in FigStep's form, never trained on: the packaged benign twin of FigStep, and our own."""
    rows = (files("shiftdc_eval.tasks.figstep") / "benign.jsonl").read_text(encoding="utf-8").splitlines()
    own = (files("training.smol") / "twins.txt").read_text(encoding="utf-8").splitlines()
    return [str(row["instruction"]) for line in rows if "instruction" in (row := json.loads(line))] + own


def headings() -> dict[str, list[str]]:
    """Topic -> five headings of our own in FigStep's form, mild or abstract, for whoever has no FigStep."""
    lines = (files("training.smol") / "headings.txt").read_text(encoding="utf-8").splitlines()
    return {row[0]: row[1:] for line in lines if (row := [part.strip() for part in line.split("|")])}


def _read(read: Callable[[Path], Iterator[EvalItem]], folder: Path) -> list[EvalItem]:
    return list(read(folder)) if folder.is_dir() else []


def _figstep(folder: Path) -> Iterator[EvalItem]:
    for name in ("safebench.csv", "SafeBench-Tiny.csv"):
        path = first_existing(folder, name, f"data/question/{name}")
        for row in read_csv(path, ("category_id", "task_id", "question", "instruction")) if path else ():
            number = f"{row['category_id']}_{row['task_id']}"
            yield EvalItem("figstep", f"{number} question", row["question"])
            yield EvalItem("figstep", f"{number} instruction", row["instruction"])


def _mm_safetybench(folder: Path) -> Iterator[EvalItem]:
    questions = first_existing(folder, "processed_questions", "data/processed_questions")
    for path in sorted(questions.glob("*.json")) if questions else ():
        for number, row in read_json(path, dict).items():
            for field in ("Question", "Changed Question", "Key Phrase"):
                text = text_field(row, field, f"{path}, question {number}")
                yield EvalItem("mm_safetybench", f"{path.stem}/{number} {field}", text)


def _xstest(folder: Path) -> Iterator[EvalItem]:
    path = first_existing(folder, "xstest_prompts.csv")
    for row in read_csv(path, ("id", "prompt")) if path else ():
        yield EvalItem("xstest", row["id"], row["prompt"])


def _mossbench(folder: Path) -> Iterator[EvalItem]:
    for name in ("benign.json", "contrast.json"):
        path = first_existing(folder, name, f"data/{name}")
        for number, row in read_json(path, dict).items() if path else ():
            text = text_field(row, "question", f"{path}, item {number}")
            yield EvalItem("mossbench", f"{path.stem if path else ''} {number}", text)


def _mmvet(folder: Path) -> Iterator[EvalItem]:
    path = first_existing(folder, "mm-vet.json", "mm-vet/mm-vet.json", "data/mm-vet.json")
    for number, row in read_json(path, dict).items() if path else ():
        yield EvalItem("mmvet", number, text_field(row, "question", f"{path}, item {number}"))


def _mme(folder: Path) -> Iterator[EvalItem]:
    # the authors' release: one text file an image, a question and its answer a line
    for path in sorted(folder.rglob("*.txt")):
        for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            question, tab, _ = text.partition("\t")
            if tab:
                yield EvalItem("mme", f"{path.parent.name}/{path.stem} {line}", question)


def _msts(folder: Path) -> Iterator[EvalItem]:
    path = first_existing(folder, "prompts_english_multimodal.csv")
    for row in read_csv(path, ("prompt_id", "case_text", "prompt_text")) if path else ():
        for field in ("case_text", "prompt_text"):
            yield EvalItem("msts", f"{row['prompt_id']} {field}", row[field])


def _contrast(folder: Path) -> Iterator[EvalItem]:
    path = first_existing(folder, "harmful_test.json")
    for number, row in enumerate(read_json(path, list) if path else ()):
        yield EvalItem("contrast", f"test {number}", text_field(row, "instruction", f"{path}, row {number}"))


READERS: dict[str, Callable[[Path], Iterator[EvalItem]]] = {
    "figstep": _figstep,
    "mm_safetybench": _mm_safetybench,
    "xstest": _xstest,
    "mossbench": _mossbench,
    "mmvet": _mmvet,
    "mme": _mme,
    "msts": _msts,
    "contrast": _contrast,
}
"""Folder of a benchmark -> reader of its texts. `contrast`: held-out harmful instructions of the direction set."""
