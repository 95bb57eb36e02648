"""Fonts for benchmarks whose images are text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.tasks.example import RENDERED, Example


@dataclass(frozen=True)
class FontName:
    """A font that a protocol names."""

    files: tuple[str, ...]
    """Names of files with this font or one of the same metrics, the protocol's own first."""
    package: str
    """Debian package that provides it."""
    substitute: str | None = None
    """Font file of the package matplotlib to use where this font is not installed; None: an error instead."""


FREE_MONO_BOLD = FontName(("FreeMonoBold.ttf", "FreeMonoBold.otf"), "fonts-freefont-ttf")
"""FigStep's font, without a substitute: another font would be another benchmark, and the images can be downloaded."""
LIBERATION_SANS = FontName(
    ("Arial.ttf", "arial.ttf", "LiberationSans-Regular.ttf"), "fonts-liberation", "DejaVuSans.ttf"
)
"""MM-SafetyBench's font is Arial, which is proprietary. Liberation Sans has the same metrics; the substitute
DejaVu Sans is always available, but wider, so that some lines break at other words."""


def find_font(name: FontName) -> Path:
    """Font file: `SHIFTDC_FONT` (a file, or a folder to search), else an installed one, else the substitute.

    Raises:
        DataError: not found; names the Debian package and the variable.
    """
    chosen = setting("SHIFTDC_FONT")
    if chosen:
        path = Path(chosen).expanduser()
        if path.is_file():
            return path
        found = _first(name.files, map(str, path.rglob("*")))
        if found is None:
            raise DataError(f"SHIFTDC_FONT={chosen}: neither a font file nor a folder with {name.files[0]}")
        return found
    found = _first(name.files, installed())
    if found is None and name.substitute is not None:
        import matplotlib

        return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name.substitute
    if found is None:
        raise DataError(
            f"The font {name.files[0]} was not found among the fonts of this machine. Install the Debian package "
            f"{name.package}, or set SHIFTDC_FONT to a font file."
        )
    return found


@lru_cache(maxsize=1)
def installed() -> tuple[str, ...]:
    """Installed font files: the system's, the user's and those of the running Python environment."""
    from matplotlib.font_manager import findSystemFonts  # takes a third of a second to import

    own = Path(sys.prefix) / "share" / "fonts"
    return *findSystemFonts(), *findSystemFonts([str(own)])


def _first(names: Sequence[str], files: Iterable[str]) -> Path | None:
    """The file with the earliest of the names; of several with that name, the first by path."""
    found = [path for path in map(Path, sorted(files)) if path.name in names]
    return min(found, key=lambda path: names.index(path.name), default=None)


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
    """A font file as results name it, with the protocol's font where it substitutes that one."""
    said = f"{font.name} (sha256 {file_sha256(font)[:16]})"
    return said if font.name in asked.files else f"{said} in place of {asked.files[0]}"


def rendered_notes(examples: Sequence[Example], font: str) -> tuple[str, ...]:
    """Note on how many images were rendered, and with which font; none where no image was."""
    count = sum(RENDERED in example.flags for example in examples)
    return (f"{count} of {len(examples)} images rendered with {font}",) if count else ()
