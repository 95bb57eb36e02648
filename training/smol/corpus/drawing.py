"""Draws the pictures of the small research model and says which character and token lies in which patch."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from shiftdc_eval.backbones.bundled.smol_config import PATCH, SIZE

SIDE = SIZE // PATCH
SLOTS = 4
"""Characters told apart in one patch, from left to right and top to bottom."""
FIRST, LAST = 33, 126
CLASSES = LAST - FIRST + 2
"""Printable ASCII without the blank, and 0 for nothing."""
BOARD, WIDTH = 760, 1024
MARKERS = ("1. ", "2. ", "3. ")


@dataclass(frozen=True)
class Picture:
    """One picture to draw; lengths in pixels of the canvas before it is squashed."""

    text: str
    """The heading or phrase that is written on it."""
    font: str
    """Font file."""
    kind: str = "board"
    """`board`: a heading over three empty list numbers. `strip`: a phrase on a wide strip."""
    font_size: int = 80
    wrap: int = 15
    """Characters a line of a board."""
    origin: tuple[int, int] = (20, 10)
    spacing: int = 11
    markers: bool = True


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _lines(picture: Picture, font: ImageFont.FreeTypeFont) -> list[str]:
    if picture.kind == "board":
        return textwrap.wrap(picture.text, width=picture.wrap)
    lines: list[str] = []
    for word in picture.text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) + picture.origin[0] > WIDTH:
            lines.append(f" {word}")
        else:
            lines[-1:] = [joined]
    return lines


@dataclass(frozen=True)
class Drawn:
    """A drawn picture and what lies where."""

    pixels: np.ndarray
    """`[256, 256]` uint8, grey."""
    characters: np.ndarray
    """`[256, 4]` uint8: class of each slot of each patch, 0 for none."""
    places: list[int]
    """For every character of the text the patch in which its centre lies; -1 outside the picture, and for blanks."""
    whole: bool
    """All of the text lies on the picture."""


def draw(picture: Picture) -> Drawn:
    """Draws one picture."""
    font = _font(picture.font, picture.font_size)
    lines = _lines(picture, font)
    shown = [*lines, *MARKERS] if picture.kind == "board" and picture.markers else lines
    step = font.getbbox("A")[3] + picture.spacing
    if picture.kind == "board":
        canvas = Image.new("L", (BOARD, BOARD), 255)
    else:
        canvas = Image.new("L", (WIDTH, picture.font_size * (len(lines) + 1)), 255)
    pen = ImageDraw.Draw(canvas)
    pen.text(picture.origin, "\n".join(shown), fill=0, font=font, spacing=picture.spacing)
    found: list[tuple[int, int, float, float]] = []
    places, cursor = [-1] * len(picture.text), 0
    for row, line in enumerate(shown):
        if row < len(lines):
            while cursor < len(picture.text) and picture.text[cursor] != line[0]:
                cursor += 1
        y = picture.origin[1] + row * step + 0.6 * picture.font_size
        left = 0.0
        for column, character in enumerate(line):
            right = font.getlength(line[: column + 1])
            x = picture.origin[0] + (left + right) / 2
            left = right
            px, py = x / canvas.width * SIDE, y / canvas.height * SIDE
            patch = int(py) * SIDE + int(px) if 0 <= px < SIDE and 0 <= py < SIDE else -1
            if row < len(lines):
                places[cursor] = patch if character != " " else -1
                cursor += 1
            if patch >= 0 and FIRST <= ord(character) <= LAST:
                found.append((patch, ord(character) - FIRST + 1, y, x))
    labels = np.zeros((SIDE * SIDE, SLOTS), dtype=np.uint8)
    used: dict[int, int] = {}
    for patch, number, _, _ in sorted(found, key=lambda f: f[2:]):
        slot = used.get(patch, 0)
        if slot < SLOTS:
            labels[patch, slot] = number
        used[patch] = slot + 1
    pixels = np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    whole = all(place >= 0 for place, letter in zip(places, picture.text, strict=True) if letter != " ")
    return Drawn(pixels, labels, places, whole)


def fonts(folder: Path) -> dict[str, str]:
    """Name -> file of every TrueType font of a folder.

    Raises:
        FileNotFoundError: no font there.
    """
    found = {p.stem: str(p) for p in sorted(folder.glob("*.ttf"))}
    if not found:
        raise FileNotFoundError(
            f"no .ttf font in {folder}; install fonts-freefont-ttf or give another folder"
        )
    return found
