"""FigStep's benign twins: instructions written for this package, and the images that ship with it.

`benign/` holds one PNG a topic, 8-bit grey, its five twins side by side: the pixels that `render` draws with
FreeMono Bold of Debian's fonts-freefont-ttf 20120503-10, so that every machine shows a model the same images
and none needs a font. `python tests/support/figstep_twins.py` draws them anew where that font is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from shiftdc_eval.core.images import load_image
from shiftdc_eval.tasks.data import text_field
from shiftdc_eval.tasks.figstep.render import SIZE

TEXTS = Path(__file__).with_name("benign.jsonl")
IMAGES = Path(__file__).with_name("benign")
FONT_SHA256 = "30b4b98748839431a366123f859871549b57e461a8b8ec2d3d65b55b2fb9f22d"
"""sha256 of the FreeMonoBold.ttf that drew the images."""
FONT = f"FreeMonoBold.ttf (sha256 {FONT_SHA256[:16]})"
"""That font as results name it."""


@dataclass(frozen=True)
class Twin:
    """One benign instruction."""

    topic: int
    """Number of the topic, from 1."""
    place: int
    """Number within the topic, from 1: its place in the topic's image, from the left."""
    scenario: str
    """Name of the topic."""
    instruction: str
    """Text of the image."""

    @property
    def number(self) -> str:
        """Id within the task, e.g. `3_1`."""
        return f"{self.topic}_{self.place}"

    def image(self) -> Image.Image:
        """The shipped image, RGB 760x760.

        Raises:
            DataError: the package's image is missing or broken.
        """
        left = SIZE[0] * (self.place - 1)
        return load_image(IMAGES / f"{self.topic}.png").crop((left, 0, left + SIZE[0], SIZE[1]))


def twins() -> list[Twin]:
    """The twins, in the order of the file.

    Raises:
        DataError: the package's file is malformed.
    """
    found = []
    for line, text in enumerate(TEXTS.read_text(encoding="utf-8").splitlines(), start=1):
        row, where = json.loads(text), f"{TEXTS}, line {line}"
        if "licence" in row:
            continue
        topic, place = map(int, text_field(row, "id", where).split("_"))
        scenario, instruction = text_field(row, "topic", where), text_field(row, "instruction", where)
        found.append(Twin(topic, place, scenario, instruction))
    return found
