"""FigStep's benign twins: instructions of ours, and their images as they ship with the package.

`benign/` holds one PNG a topic, 8-bit grey, its five twins side by side: the pixels that `render` draws with
FreeMono Bold of Debian's fonts-freefont-ttf 20120503-10, so that every machine shows a model the same images
and none needs a font. `python -m shiftdc_eval.tasks.figstep.twins` draws them anew where that font is.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from PIL import Image

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.tasks.data import image_loader, text_field
from shiftdc_eval.tasks.figstep.render import SIZE, render
from shiftdc_eval.tasks.fonts import FREE_MONO_BOLD, find_font

TEXTS = Path(__file__).with_name("benign.jsonl")
IMAGES = Path(__file__).with_name("benign")
FONT_SHA256 = "30b4b98748839431a366123f859871549b57e461a8b8ec2d3d65b55b2fb9f22d"
"""sha256 of the FreeMonoBold.ttf that drew the images."""
FONT = f"FreeMonoBold.ttf (sha256 {FONT_SHA256[:16]})"
"""How a result names that font."""


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
    """What the image asks for."""

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
        return image_loader(_file(IMAGES, self.topic))().crop((left, 0, left + SIZE[0], SIZE[1]))


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


def draw(font: Path) -> Iterator[tuple[int, Image.Image]]:
    """Every topic's number and its image, 8-bit grey: the five twins side by side."""
    for topic, group in groupby(twins(), key=lambda twin: twin.topic):
        images = [render(twin.instruction, font).convert("L") for twin in group]
        strip = Image.new("L", (SIZE[0] * len(images), SIZE[1]))
        for place, image in enumerate(images):
            strip.paste(image, (SIZE[0] * place, 0))
        yield topic, strip


def find_their_font() -> Path:
    """The font that drew the shipped images.

    Raises:
        DataError: it is not on this machine, or only another build of it.
    """
    font = find_font(FREE_MONO_BOLD)
    if (found := file_sha256(font)) != FONT_SHA256:
        raise DataError(f"{font} has sha256 {found}; the benign twins are drawn with the build {FONT_SHA256}")
    return font


def _file(folder: Path, topic: int) -> Path:
    return folder / f"{topic}.png"


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the images into the package, or into the folder named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m shiftdc_eval.tasks.figstep.twins", description="Draw FigStep's benign twins anew."
    )
    parser.add_argument("folder", type=Path, nargs="?", default=IMAGES, help="default: the package's own")
    folder: Path = parser.parse_args(arguments).folder
    try:
        font = find_their_font()
    except DataError as error:
        parser.error(str(error))
    folder.mkdir(parents=True, exist_ok=True)
    for topic, image in draw(font):
        image.save(_file(folder, topic), optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
