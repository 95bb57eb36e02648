"""Images for the page of samples: only image files and embedded image data, whatever a row names."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from shiftdc_eval.board.cell import slug
from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.files import atomic_write, make_folder
from shiftdc_eval.core.hashing import image_sha256
from shiftdc_eval.core.images import load_image

DATA = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,([A-Za-z0-9+/=\s]+)")
TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_BYTES = 2_000_000
"""Larger files are linked, not embedded."""
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for files that are no images, are damaged or would fill the memory."""


OTHER_PAGE = "name a page in another folder with -o"
Draw = Callable[[str], Iterable[Image.Image]]
"""Task name -> the images of its items, in any order."""


@dataclass
class Pictures:
    """Finds the images of samples: files that a row names, else by the hash of their pixels."""

    how: str
    """`link`, `embed` or `none`."""
    beside: Path
    """Folder of the page, from which images are linked."""
    folder: Path | None = None
    """Images to search."""
    inside: Sequence[Path] = ()
    """Folders besides `folder` whose images may be embedded: a row names any file of this machine."""
    data: Path | None = None
    """`SHIFTDC_DATA`: the folders in it after which a task is named are searched."""
    drawn: Path | None = None
    """Folder for images that are no file anywhere; those that are there already are found by their names."""
    draw: Draw | None = None
    """Draws them."""
    left_out: int = 0
    """Images that were to be embedded and are outside these folders, or no images."""
    _known: dict[str, Path] = field(default_factory=dict)
    _ahead: dict[Path | str, Iterator[tuple[str, Path]]] = field(default_factory=dict)

    def of(self, media: object, hashes: Sequence[str], task: str) -> list[str]:
        """Addresses of a sample's images: those that its row names, else those found by hash."""
        if self.how == "none":
            return []
        named = [source for source in media if isinstance(source, str)] if isinstance(media, list) else []
        addresses = [address for address in map(self.address, named) if address]
        if addresses:
            return addresses
        found = [self._by_hash(digest, task) for digest in hashes]
        return [address for path in found if path and (address := self.address(str(path)))]

    def address(self, source: str) -> str:
        """One image's address; empty when it is neither embedded data nor an image file that may be shown."""
        try:
            if source.startswith("data:"):
                found = DATA.fullmatch(source)
                return source if found and _kind(base64.b64decode(found[1])) else ""
            path = Path(source.removeprefix("file://"))
            if path.suffix.lower() not in TYPES or not path.is_file():
                return ""
            path = path.resolve()
            if self.how == "embed":
                content = path.read_bytes() if self._may_embed(path) else b""
                kind = _kind(content)
                if not kind:
                    self.left_out += 1
                    return ""
                if len(content) <= MAX_BYTES:
                    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
            return quote(Path(os.path.relpath(path, self.beside)).as_posix())
        except (OSError, ValueError):  # an impossible file name, an unreadable file, or no base64
            return ""

    def _may_embed(self, path: Path) -> bool:
        folders = [*self.inside, *(one for one in (self.folder, self.data, self.drawn) if one)]
        return any(path.is_relative_to(folder.resolve()) for folder in folders)

    def _by_hash(self, digest: str, task: str) -> Path | None:
        if digest in self._known:
            return self._known[digest]
        if self.drawn and (path := self.drawn / f"{slug(digest)}.png").is_file():
            return path
        for source in self._sources(task):
            if source not in self._ahead:
                self._ahead[source] = (
                    self._files(source) if isinstance(source, Path) else self._drawings(source)
                )
            for found, path in self._ahead[source]:
                self._known.setdefault(found, path)
                if found == digest:
                    return path
        return None

    def _sources(self, task: str) -> list[Path | str]:
        """Folders to search, then the task itself, whose images may be no files."""
        within = sorted(self.data.iterdir()) if self.data and self.data.is_dir() else []
        own = [one for one in within if f"_{one.name}_" in f"_{task}_"]
        return [*([self.folder] if self.folder else []), *own, *([task] if self.draw and self.drawn else [])]

    def _files(self, folder: Path) -> Iterator[tuple[str, Path]]:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in TYPES:
                try:
                    yield image_sha256(load_image(path)), path
                except DataError:  # damaged, or no image at all
                    continue

    def _drawings(self, task: str) -> Iterator[tuple[str, Path]]:
        assert self.draw is not None
        assert self.drawn is not None
        for image in self.draw(task):
            make_folder(self.drawn, OTHER_PAGE)
            path = self.drawn / f"{(digest := image_sha256(image))}.png"
            content = io.BytesIO()
            image.save(content, format="PNG")
            atomic_write(path, content.getvalue(), instead=OTHER_PAGE)
            yield digest, path


def _kind(content: bytes) -> str:
    """The type of an image by its content, as a MIME type names it; empty for anything else."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.verify()
            return str(image.format).lower()
    except UNREADABLE:
        return ""
