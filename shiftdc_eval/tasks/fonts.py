"""Fonts for benchmarks whose images are text."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.tasks.example import RENDERED, Example

FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.fonts",
    "~/.local/share/fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
    f"{sys.prefix}/share/fonts",
)
"""Where fonts usually are."""


@dataclass(frozen=True)
class FontName:
    """A font a protocol asks for."""

    files: tuple[str, ...]
    """File names that are this font, the protocol's own first."""
    package: str
    """Debian package that has it."""
    stand_in: str | None = None
    """File of the package matplotlib that is taken where this font is not on the machine; None: nothing is."""


FREE_MONO_BOLD = FontName(("FreeMonoBold.ttf", "FreeMonoBold.otf"), "fonts-freefont-ttf")
"""FigStep's font. Nothing stands in for it: FigStep is what this font looks like, and its images can be had."""
LIBERATION_SANS = FontName(
    ("Arial.ttf", "arial.ttf", "LiberationSans-Regular.ttf"), "fonts-liberation", "DejaVuSans.ttf"
)
"""MM-SafetyBench's font is Arial, which is proprietary; Liberation Sans has the same metrics, and DejaVu Sans,
which is wider and so breaks some lines elsewhere, is on every machine."""


def find_font(name: FontName) -> Path:
    """Font file: `SHIFTDC_FONT` (a file, or a folder to look in), else the usual folders, else the stand-in.

    Raises:
        DataError: not found; names the Debian package and the variable.
    """
    chosen = os.environ.get("SHIFTDC_FONT")
    if chosen:
        path = Path(chosen).expanduser()
        if path.is_file():
            return path
        found = _search((str(path),), name.files)
        if found is None:
            raise DataError(f"SHIFTDC_FONT={chosen}: neither a font file nor a folder with {name.files[0]}")
        return found
    found = _search(FOLDERS, name.files)
    if found is None and name.stand_in is not None:
        import matplotlib  # a third of a second, for who needs it

        return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name.stand_in
    if found is None:
        raise DataError(
            f"The font {name.files[0]} was not found in {', '.join(FOLDERS)}. Install the Debian package "
            f"{name.package}, or set SHIFTDC_FONT to a font file."
        )
    return found


@lru_cache(maxsize=16)
def _search(folders: tuple[str, ...], files: tuple[str, ...]) -> Path | None:
    wanted: dict[str, Path] = {}
    for folder in folders:
        for where, _, names in os.walk(Path(folder).expanduser()):
            for name in files:
                if name in names:
                    wanted.setdefault(name, Path(where) / name)
    return next((wanted[name] for name in files if name in wanted), None)


@lru_cache(maxsize=8)
def load_font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    """Open a font at a pixel size, with the basic layout engine so that no shaping library changes pixels.

    Raises:
        DataError: the file is not a font.
    """
    try:
        return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise DataError(f"{path} is not a font Pillow can read: {error}") from error


def described_font(font: Path, asked: FontName) -> str:
    """A font file as results name it, and what it stands in for where it is not the font of the protocol."""
    said = f"{font.name} (sha256 {file_sha256(font)[:16]})"
    return said if font.name in asked.files else f"{said} in place of {asked.files[0]}"


def rendered_notes(examples: Sequence[Example], font: str) -> tuple[str, ...]:
    """What a result says of the images that were rendered, and with which font."""
    count = sum(RENDERED in example.flags for example in examples)
    return (f"{count} of {len(examples)} images rendered with {font}",) if count else ()
