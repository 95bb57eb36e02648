"""Draw a typography image from its key phrase.

Source: isXinLiu/MM-SafetyBench, image creation: Arial 90, width 1024, greedy word wrap by text length,
continuation lines begin with a space, height 90 x (lines + 1), drawn at (0, 45), black on white. Arial is
proprietary; Liberation Sans has the same metrics but other outlines, so these images are flagged.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from shiftdc_eval.tasks.fonts import load_font

FONT_SIZE = 90
WIDTH = 1024
ORIGIN = (0, 45)


def wrap(phrase: str, font: ImageFont.FreeTypeFont) -> list[str]:
    """Lines of the phrase, broken where the next word would pass the width."""
    lines: list[str] = []
    for word in phrase.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) > WIDTH:
            lines.append(f" {word}")
        else:
            lines[-1:] = [joined]
    return lines


def render(phrase: str, font_file: Path) -> Image.Image:
    """The image, RGB, 1024 wide."""
    font = load_font(font_file, FONT_SIZE)
    lines = wrap(phrase, font)
    image = Image.new("RGB", (WIDTH, FONT_SIZE * (len(lines) + 1)), "#FFFFFF")
    ImageDraw.Draw(image).text(ORIGIN, "\n".join(lines), fill="#000000", font=font)
    return image
