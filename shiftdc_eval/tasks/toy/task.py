"""Mini benchmarks drawn from `shiftdc_eval.tasks.toy.world.items`: no files, no network, any size, any seed.

Their results apply to the embedded toy model only. Settings: `n` items and `seed` of the world's
held-out split.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar

from PIL import Image

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.judges.verdict import Judge
from shiftdc_eval.tasks.base import BenchmarkTask
from shiftdc_eval.tasks.exact_match import EXACT_MATCH
from shiftdc_eval.tasks.example import CLEAR_HARM, Example, Source
from shiftdc_eval.tasks.mme.task import MME
from shiftdc_eval.tasks.safety import SafetyTask
from shiftdc_eval.tasks.toy import facts
from shiftdc_eval.tasks.toy.world import items as world
from shiftdc_eval.tasks.toy.world.items import REQUEST_TYPES, Item
from shiftdc_eval.tasks.toy.world.vocabulary import Split

SPLIT: Split = "test"
QUESTION_PICTURES = ("scene", "words")
"""The two types of pictures that questions are about; they take the role of MME's subtasks."""


def draw(task: BenchmarkTask, kinds: Sequence[str]) -> tuple[list[Item], str]:
    """Items by the task's settings, one of each kind in turn, and the seed with a hash of the items.

    Raises:
        ConfigError: `n` or `seed` is no number, or `n` does not share evenly.
    """
    n, seed = task.settings.get("n"), task.settings.get("seed", 0)
    if not isinstance(n, int) or not isinstance(seed, int) or n < 1 or n % len(kinds):
        raise ConfigError(
            f"{task.info.name}: n must be a positive multiple of {len(kinds)} and seed a whole number, "
            f"found n={n!r} and seed={seed!r}"
        )
    drawn = [world.items(kind, SPLIT, n // len(kinds), seed) for kind in kinds]
    items = [item for turn in zip(*drawn, strict=True) for item in turn]  # a limited run has every kind too
    content = json.dumps([(item.id, item.prompt, item.reference) for item in items])
    return items, f"seed {seed}, sha256:{hashlib.sha256(content.encode()).hexdigest()}"


def source(
    task: BenchmarkTask, kinds: Sequence[str], group: str, reference: Callable[[Item], str] | None = None
) -> Source:
    """Items of the toy world as examples.

    Args:
        task: its settings give number and seed.
        kinds: kinds of items, drawn in turn.
        group: name of the group that an item's image type is recorded as.
        reference: reference answer of an item; None: the task has none.
    """
    items, revision = draw(task, kinds)
    examples = [
        Example(
            id=f"toy/{item.id}",
            question=f"toy/{item.group}" if item.kind == "yes_no" else f"toy/{item.id}",
            prompt=item.prompt,
            request=f"How do I {item.verb} a {item.thing}?" if item.verb else item.prompt,
            scenario=item.image_type,
            reference=reference(item) if reference else None,
            groups={group: item.image_type},
            flags=(CLEAR_HARM,) if item.harmful else (),
            image=partial(_image, item),
            image_text=item.caption or None,
        )
        for item in items
    ]
    return Source(examples, task.info.dataset, revision)


def _image(item: Item) -> Image.Image:
    image = item.image
    assert image is not None
    return image


class ToyRequests(SafetyTask):
    """Harmful requests of one image type (`image_type: figstep | typo | sd | sd_typo`)."""

    infos = facts.TASKS
    group: ClassVar[str] = "image_type"

    def load(self) -> Source:
        """Draw the requests.

        Raises:
            ConfigError: unknown image type, or a wrong `n` or `seed`.
        """
        kind = str(self.settings.get("image_type"))
        if kind not in REQUEST_TYPES:
            raise ConfigError(
                f"{self.info.name}: image_type must be one of {', '.join(REQUEST_TYPES)}, found {kind!r}"
            )
        return source(self, [kind], self.group)


class ToyBenign(ToyRequests):
    """The benign twins of all four image types."""

    def load(self) -> Source:
        """Draw the requests."""
        return source(self, [f"benign_{kind}" for kind in REQUEST_TYPES], self.group)


class ToyMME(MME):
    """Yes/no questions in pairs about one picture, scored as MME."""

    infos = facts.TASKS
    totals: ClassVar[Mapping[str, Sequence[str]]] = {"mme_total": QUESTION_PICTURES}

    def load(self) -> Source:
        """Draw the pairs."""
        return source(self, ["yes_no"], "subtask", lambda item: item.reference.lower())


class ToyVQA(SafetyTask):
    """Short questions about a picture, scored by exact match."""

    infos = facts.TASKS
    group: ClassVar[str] = "picture"

    def make_judges(self) -> list[Judge]:
        """The exact-match rule."""
        return [EXACT_MATCH]

    def load(self) -> Source:
        """Draw the questions."""
        return source(self, ["vqa"], self.group, lambda item: item.reference)
