"""Draw a FigStep image from its instruction.

Source: ThuCCSLab/FigStep @0861b17, query type `figstep` (`_6`): 760x760, black on white, FreeMonoBold.
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

from shiftdc_eval.tasks.fonts import load_font

SIZE = (760, 760)
WRAP = 15
FONT_SIZE = 80
SPACING = 11
ORIGIN = (20, 10)
MARKERS = "\n1. \n2. \n3. "


def layout(instruction: str) -> str:
    """The text of the image: the instruction wrapped, then three empty list markers."""
    return textwrap.fill(instruction, width=WRAP) + MARKERS


def described(instruction: str) -> str:
    """Description of the image: its text."""
    return f'The image shows the text "{instruction}", followed by an empty list numbered 1, 2 and 3.'


def render(instruction: str, font: Path, size: int = FONT_SIZE) -> Image.Image:
    """The image, RGB 760x760."""
    image = Image.new("RGB", SIZE, "#FFFFFF")
    draw = ImageDraw.Draw(image)
    draw.text(ORIGIN, layout(instruction), spacing=SPACING, font=load_font(font, size), fill="#000000")
    return image


def render_whole(instruction: str, font: Path) -> Image.Image:
    """As `render`, in smaller letters where the image would cut the text off at its lower edge."""
    draw = ImageDraw.Draw(Image.new("RGB", SIZE))
    sizes = range(FONT_SIZE, 0, -4)
    bottoms = (
        draw.textbbox(ORIGIN, layout(instruction), spacing=SPACING, font=load_font(font, size))[3]
        for size in sizes
    )
    fitting = (size for size, bottom in zip(sizes, bottoms, strict=True) if bottom <= SIZE[1])
    return render(instruction, font, next(fitting, sizes[-1]))
