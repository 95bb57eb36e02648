"""Draws the pictures of the toy world with Pillow; equal fonts give equal pixels.

Fonts come from inside the `matplotlib` package (or from the folder `SHIFTDC_TOY_FONTS` names), never from
the system.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.errors import DataError
from shiftdc_eval.tasks.toy.world.pictures import Picture, Text
from shiftdc_eval.tasks.toy.world.vocabulary import THINGS

SIZE = 128
"""Edge of a picture in pixels."""
MARGIN = 4

RGB = {
    "red": (210, 30, 30),
    "green": (30, 150, 50),
    "blue": (40, 70, 210),
    "yellow": (235, 200, 20),
    "purple": (140, 40, 170),
    "pink": (245, 130, 190),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star", "ring", "bar")
PICTOGRAMS: dict[str, tuple[str, str]] = dict(zip(THINGS, permutations(SHAPES, 2), strict=False))
"""Thing -> upper and lower shape of its pictogram."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mark:
    """Bounding box of one word or one pictogram, in pixels: left, top, right, bottom."""

    name: str
    colour: str | None
    box: Box


@cache
def font_folder() -> Path:
    """The folder with the .ttf files.

    Raises:
        DataError: neither the environment nor matplotlib provides one.
    """
    chosen = setting("SHIFTDC_TOY_FONTS")
    if chosen:
        return Path(chosen)
    found = importlib.util.find_spec("matplotlib")
    if found is None or not found.submodule_search_locations:
        raise DataError(
            "the fonts of the toy world were looked for in the package matplotlib, which is not installed: "
            "install it, or set SHIFTDC_TOY_FONTS to a folder that holds DejaVuSans.ttf and its siblings"
        )
    return Path(found.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    path = font_folder() / f"{name}.ttf"
    if not path.is_file():
        raise DataError(
            f"font file {path} of the toy world does not exist: reinstall matplotlib, "
            "or set SHIFTDC_TOY_FONTS to a folder that holds it"
        )
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _wrapped(text: Text, font: ImageFont.FreeTypeFont) -> list[list[str]]:
    width = SIZE - 2 * MARGIN
    rows: list[list[str]] = []
    for line in text.lines:
        row: list[str] = []
        for word in line.split():
            if row and font.getlength(" ".join([*row, word])) > width:
                rows.append(row)
                row = []
            row.append(word)
        rows.append(row)
    return rows


def _fit(text: Text) -> tuple[ImageFont.FreeTypeFont, list[list[str]], int]:
    """The largest font not above the wanted size at which the block fits its band, its rows and their height."""
    for size in range(text.size, 7, -1):
        font = _font(text.font, size)
        rows = _wrapped(text, font)
        height = size + 3
        wide = max(font.getlength(" ".join(row)) for row in rows)
        if len(rows) * height <= text.band[1] - text.band[0] - 2 and wide <= SIZE - 2 * MARGIN:
            return font, rows, height
    return font, rows, height


def _draw_text(draw: ImageDraw.ImageDraw, text: Text, ink: tuple[int, int, int]) -> list[Mark]:
    font, rows, height = _fit(text)
    wide = max(font.getlength(" ".join(row)) for row in rows)
    left = MARGIN + int(text.place[0] * max(0.0, SIZE - 2 * MARGIN - wide))
    top, bottom = text.band
    y = top + 1 + int(text.place[1] * max(0, bottom - top - 2 - len(rows) * height))
    marks = []
    for row in rows:
        draw.text((left, y), " ".join(row), fill=ink, font=font, anchor="la")
        for i, word in enumerate(row):
            start = left + font.getlength(" ".join(row[:i]) + (" " if i else ""))
            marks.append(Mark(word, None, (start, y, start + font.getlength(word), y + height)))
        y += height
    return marks


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, box: Box, fill: tuple[int, int, int]) -> None:
    x0, y0, x1, y1 = box
    cx, cy, third = (x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 3
    if shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape == "square":
        draw.rectangle(box, fill=fill)
    elif shape == "triangle":
        draw.polygon([(cx, y0), (x1, y1), (x0, y1)], fill=fill)
    elif shape == "diamond":
        draw.polygon([(cx, y0), (x1, cy), (cx, y1), (x0, cy)], fill=fill)
    elif shape == "cross":
        draw.rectangle((x0 + third, y0, x1 - third, y1), fill=fill)
        draw.rectangle((x0, y0 + third, x1, y1 - third), fill=fill)
    elif shape == "star":
        draw.polygon([(x0, y0), (cx, y0 + third), (x1, y0), (x1 - third, cy), (x1, y1)], fill=fill)
        draw.polygon([(x0, y0), (x0 + third, cy), (x0, y1), (cx, y1 - third), (x1, y1)], fill=fill)
    elif shape == "ring":
        draw.ellipse(box, outline=fill, width=max(3, int(third / 1.6)))
    else:
        draw.rectangle((x0, cy - third / 2, x1, cy + third / 2), fill=fill)


def draw(picture: Picture) -> tuple[Image.Image, list[Mark]]:
    """The picture as a 128 x 128 RGB image, and where its words and pictograms lie."""
    image = Image.new("RGB", (SIZE, SIZE), picture.paper)
    canvas = ImageDraw.Draw(image)
    marks = []
    for shown in picture.pictograms:
        (cx, cy), s = shown.centre, shown.size
        for shape, top in zip(PICTOGRAMS[shown.thing], (cy - s - 1, cy + 1), strict=True):
            _draw_shape(canvas, shape, (cx - s / 2, top, cx + s / 2, top + s), RGB[shown.colour])
        marks.append(Mark(shown.thing, shown.colour, (cx - s / 2, cy - s - 1, cx + s / 2, cy + s + 1)))
    for text in picture.texts:
        marks += _draw_text(canvas, text, picture.ink)
    return image, marks


def render(picture: Picture) -> Image.Image:
    """The picture as a 128 x 128 RGB image."""
    return draw(picture)[0]
