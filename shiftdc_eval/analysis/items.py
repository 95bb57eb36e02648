"""Which items are recorded: harmful ones and benign twins in equal number, and items about what is seen."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from shiftdc_eval.analysis.recording_file import ItemRecord
from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.core.hashing import text_sha256
from shiftdc_eval.core.validation import nearest
from shiftdc_eval.defenses.contrast import ContrastSet, plain
from shiftdc_eval.tasks.catalogue import TASKS
from shiftdc_eval.tasks.example import CLEAR_HARM, Example

TWINS = {"toy": "toy_benign", "figstep": "figstep_benign"}
"""First word of a harmful task's name -> task of benign twins."""
Loader = Callable[[str], Any]
"""Task name -> task, with its examples in `source`."""


@dataclass(frozen=True)
class Item:
    """One item to record."""

    record: ItemRecord
    """What is kept of it."""
    prompt: str
    """Text prompt beside the image."""
    request: str
    """The same request in words alone."""
    image: Callable[[], Image.Image]
    """Loads or draws the image."""
    image_text: str | None = None
    """What the image shows, in words, where the data says so."""


def load_task(name: str) -> Any:
    """A task of ours with its examples.

    Raises:
        ConfigError: no such task.
        DataError: its data is missing.
    """
    if name not in TASKS:
        raise ConfigError(f"no task {name!r}{nearest(name, TASKS)}; `shiftdc-eval tasks` lists them")
    from shiftdc_eval.grid.tasks import task_manager

    return task_manager().load_task_or_group([name])[name]


def collect(
    tasks: Sequence[str],
    benign: Sequence[str],
    visual: Sequence[str],
    contrast: ContrastSet,
    *,
    limit: int | None,
    load: Loader = load_task,
) -> tuple[list[Item], list[str]]:
    """The items, and notes on what was left out.

    Args:
        tasks: tasks with harmful items; one that is benign counts as twins.
        benign: tasks with benign twins; by the table `TWINS` when empty.
        visual: tasks whose reference answers say what is seen.
        contrast: items whose request it holds are left out.
        limit: harmful items at most; as many twins, and as many visual items of each task.
        load: how a task is loaded.

    Raises:
        ConfigError: no harmful task, no known twin.
        DataError: a task without images, or nothing left.
    """
    harmful_tasks = [name for name in tasks if name not in TASKS or not TASKS[name].benign]
    benign_tasks = [*benign, *(name for name in tasks if name not in harmful_tasks)] or twins(harmful_tasks)
    notes: list[str] = []
    used = {plain(text) for pair in contrast.pairs for text in (pair.safe, pair.unsafe)}

    def read(names: Sequence[str], role: str) -> list[list[Item]]:
        return [_items(name, role, load(name), used, notes) for name in names]

    harmful = _in_turn(read(harmful_tasks, "harmful"))
    safe = _same_scenarios(_in_turn(read(benign_tasks, "benign")), harmful, notes)
    size = min(len(harmful), len(safe), limit or len(harmful))
    if not size:
        raise DataError(
            f"nothing to analyse: {len(harmful)} harmful and {len(safe)} benign items of {', '.join(tasks)}"
        )
    seen = [item for items in read(visual, "visual") for item in items[:limit]]
    return [*harmful[:size], *safe[:size], *seen], notes


def twins(harmful: Sequence[str]) -> list[str]:
    """The benign twins of tasks.

    Raises:
        ConfigError: none is known; says which argument to give.
    """
    if not harmful:
        raise ConfigError("--tasks names no task with harmful items")
    found = {name: TWINS.get(name.split("_")[0]) for name in harmful}
    unknown = [name for name, twin in found.items() if twin is None]
    if unknown:
        raise ConfigError(f"no benign twin is known for {', '.join(unknown)}; name one with --benign TASK")
    return list(dict.fromkeys(twin for twin in found.values() if twin))


def _items(name: str, role: str, task: Any, used: set[str], notes: list[str]) -> list[Item]:
    examples: list[Example] = list(task.source.examples)
    notes += [f"{name}: {note}" for note in task.source.notes]
    if role == "harmful" and any(CLEAR_HARM in one.flags for one in examples):
        clear = [one for one in examples if CLEAR_HARM in one.flags]
        if len(clear) < len(examples):
            notes.append(f"{name}: {len(examples) - len(clear)} items on topics without clear harm left out")
        examples = clear
    fresh = [one for one in examples if plain(one.request) not in used]
    if len(fresh) < len(examples):
        notes.append(
            f"{name}: {len(examples) - len(fresh)} calibration items left out (the contrast set holds them)"
        )
    blind = [one.id for one in fresh if one.image is None]
    if blind:
        raise DataError(f"{name}: item {blind[0]} has no image; the analysis compares requests with images")
    return [_item(name, role, one) for one in fresh]


def _item(task: str, role: str, example: Example) -> Item:
    assert example.image is not None
    record = ItemRecord(
        id=f"{task}:{example.id}",
        task=task,
        role=role,
        # the same request under two image types is one question, whatever the tasks call it
        question=example.question if role == "visual" else text_sha256(plain(example.request))[:16],
        scenario=example.scenario,
        reference=(example.reference or "") if role == "visual" else "",
        flags=list(example.flags),
    )
    return Item(record, example.prompt, example.request, example.image, example.image_text)


def _in_turn(lists: Sequence[list[Item]]) -> list[Item]:
    """Items of several tasks spread evenly, in a fixed order, so that a limited number has them all."""
    places = [
        ((rank + 0.5) / len(items), at, item)
        for at, items in enumerate(lists)
        for rank, item in enumerate(items)
    ]
    return [item for _, _, item in sorted(places, key=lambda place: place[:2])]


def _same_scenarios(benign: list[Item], harmful: list[Item], notes: list[str]) -> list[Item]:
    """The twins of the harmful items' scenarios, where the two name them alike: then harm alone differs."""
    shared = {item.record.scenario for item in benign} & {item.record.scenario for item in harmful} - {""}
    kept = [item for item in benign if item.record.scenario in shared] if shared else benign
    if len(kept) < len(benign):
        notes.append(f"{len(benign) - len(kept)} benign items of other scenarios left out")
    return kept


def neutral(image: Image.Image, kind: str) -> Image.Image:
    """A control image of the same size: white (`blank`) or uniform noise (`noise`)."""
    if kind == "blank":
        return Image.new("RGB", image.size, "white")
    generator = random.Random(f"0/{image.width}x{image.height}")
    return Image.frombytes("RGB", image.size, generator.randbytes(3 * image.width * image.height))


def visual_classes(items: Sequence[ItemRecord], minimum: int) -> dict[str, dict[int, str]]:
    """What visual probes can be about: name -> item index -> class, classes with too few questions left out.

    The scenario of the harmful and benign items (not their harm), and the reference answers of visual tasks.
    """
    asked: dict[str, dict[int, str]] = {}
    for index, item in enumerate(items):
        name, label = (
            (f"answer to {item.task}", item.reference)
            if item.role == "visual"
            else ("scenario", item.scenario)
        )
        if label:
            asked.setdefault(name, {})[index] = label
    return {name: kept for name, found in asked.items() if (kept := _frequent(found, items, minimum))}


def _frequent(found: Mapping[int, str], items: Sequence[ItemRecord], minimum: int) -> dict[int, str]:
    questions: dict[str, set[str]] = {}
    for index, label in found.items():
        questions.setdefault(label, set()).add(items[index].question)
    usable = {label for label, asked in questions.items() if len(asked) >= minimum}
    return {index: label for index, label in found.items() if label in usable} if len(usable) > 1 else {}
