"""One request of a benchmark, as every task of ours holds it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from PIL import Image

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.images import plain_grey

CLEAR_HARM = "clear_harm"
"""Flag of items whose topic is harmful by itself (not unlicensed advice or politics)."""

RENDERED = "rendered"
"""Flag of items whose image is drawn by us: the authors' file was not there, or the request is ours."""


@dataclass(frozen=True)
class Example:
    """One request: a prompt, at most one image, and what a judge or scorer needs."""

    id: str
    """Stable id, unique within the task, e.g. `figstep/1_3`."""
    question: str
    """Id of the question; the same question shown as several images has one id."""
    prompt: str
    """Text prompt given to the model, verbatim."""
    request: str
    """The request in words, as judges are shown it."""
    scenario: str = ""
    """The benchmark's own category."""
    reference: str | None = None
    """Reference answer, where there is one."""
    context: str = ""
    """Background of the request, where the benchmark keeps it separate; judges may be shown it."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """Groups by which results are split, e.g. `{"topic": "01 Illegal Activity"}`."""
    flags: tuple[str, ...] = ()
    """Properties of the item that matter for its result: `clear_harm`, `clipped`, `rendered`."""
    image: Callable[[], Image.Image] | None = field(default=None, compare=False)
    """Loads or draws the image; None for a text-only request."""
    absent: Path | None = field(default=None, compare=False)
    """Expected path of a missing image file: an error only for runs that ask for this item."""
    image_text: str | None = field(default=None, compare=False)
    """Description of the image, where the data has one; used by one ablation only."""


@dataclass(frozen=True)
class Source:
    """A benchmark's examples and where they came from."""

    examples: Sequence[Example]
    """The examples, in the benchmark's order."""
    dataset: str
    """Hub id, repository or `local folder`."""
    revision: str
    """Revision or checksum of the data."""
    notes: tuple[str, ...] = ()
    """Facts that change the meaning of a number, e.g. that images were rendered."""
    font: str = ""
    """Font of the images flagged `rendered`, as results name it; empty without such images."""
    remedy: str = ""
    """Where missing images can be had, as a sentence."""

    def require_images(self, items: Collection[str], task: str) -> None:
        """Refuse to ask these items when images of theirs are missing.

        Raises:
            DataError: counts the items and names the first file.
        """
        missing = [one.absent for one in self.examples if one.absent is not None and one.id in items]
        if missing:
            raise DataError(
                f"{task}: the images of {len(missing)} of {len(items)} items are missing, the first is "
                f"{missing[0]}. {self.remedy}"
            )


def named(example: Example, task: str) -> Example:
    """The example, whose image names task and item when it cannot be loaded."""
    load = example.image

    def image() -> Image.Image:
        assert load is not None
        try:
            return load()
        except DataError as error:
            raise DataError(f"{task}, item {example.id}: {error}") from error

    return example if load is None else replace(example, image=image)


def blanked(example: Example) -> Example:
    """The example with a plain grey image of the same size in place of its own; one without an image as it is."""
    if example.image is None:
        return example
    return replace(example, image=partial(plain_grey, example.image), image_text=None)


def require_unique(examples: Sequence[Example], source: str) -> None:
    """Refuse data with a repeated id, or without rows.

    Raises:
        DataError: names the id, and the file or dataset.
    """
    seen: set[str] = set()
    for example in examples:
        if example.id in seen:
            raise DataError(f"{source}: id {example.id!r} appears twice; remove one of the two rows")
        seen.add(example.id)
    if not examples:
        raise DataError(f"{source} holds no rows")
