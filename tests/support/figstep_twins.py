"""Draw the images of FigStep's benign twins anew, with the font that drew the shipped ones.

`python tests/support/figstep_twins.py [FOLDER]`; without a folder it writes into the package.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from PIL import Image

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.tasks.figstep.render import SIZE, render
from shiftdc_eval.tasks.figstep.twins import FONT_SHA256, IMAGES, twins
from shiftdc_eval.tasks.fonts import FREE_MONO_BOLD, find_font


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the images into the package, or into the folder named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python tests/support/figstep_twins.py", description="Draw FigStep's benign twins anew."
    )
    parser.add_argument("folder", type=Path, nargs="?", default=IMAGES, help="default: the package's own")
    folder: Path = parser.parse_args(arguments).folder
    try:
        font = find_their_font()
    except DataError as error:
        parser.error(str(error))
    folder.mkdir(parents=True, exist_ok=True)
    for topic, image in draw(font):
        image.save(folder / f"{topic}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
