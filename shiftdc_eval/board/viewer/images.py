"""Images for the page of samples: only image files and embedded image data, whatever a row names."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import image_sha256
from shiftdc_eval.core.images import load_image

DATA = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,([A-Za-z0-9+/=\s]+)")
TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
MAX_BYTES = 2_000_000
"""Larger files are linked, not embedded."""
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for files that are no images, are damaged or would fill the memory."""


@dataclass
class Pictures:
    """Finds the images of samples."""

    how: str
    """`link`, `embed` or `none`."""
    beside: Path
    """Folder of the page, from which images are linked."""
    folder: Path | None = None
    """Images to search by the hash of their pixels."""
    inside: Sequence[Path] = ()
    """Folders besides `folder` whose images may be embedded: a row names any file of this machine."""
    left_out: int = 0
    """Images that were to be embedded and are outside these folders, or no images."""
    _known: dict[str, Path] = field(default_factory=dict)
    _ahead: Iterator[tuple[str, Path]] | None = None

    def of(self, media: object, hashes: Sequence[str]) -> list[str]:
        """Addresses of a sample's images: those that its row names, else those found by hash."""
        if self.how == "none":
            return []
        named = [source for source in media if isinstance(source, str)] if isinstance(media, list) else []
        addresses = [address for address in map(self.address, named) if address]
        if addresses or self.folder is None:
            return addresses
        found = [self._by_hash(digest) for digest in hashes]
        return [self.address(str(path)) for path in found if path is not None]

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
        folders = [*self.inside, *([self.folder] if self.folder else [])]
        return any(path.is_relative_to(folder.resolve()) for folder in folders)

    def _by_hash(self, digest: str) -> Path | None:
        if self._ahead is None:
            self._ahead = self._hashed()
        while digest not in self._known:
            following = next(self._ahead, None)
            if following is None:
                return None
            self._known.setdefault(*following)
        return self._known[digest]

    def _hashed(self) -> Iterator[tuple[str, Path]]:
        assert self.folder is not None
        for path in sorted(self.folder.rglob("*")):
            if path.suffix.lower() in TYPES:
                try:
                    yield image_sha256(load_image(path)), path
                except DataError:  # damaged, or no image at all
                    continue


def _kind(content: bytes) -> str:
    """The type of an image by its content, as a MIME type names it; empty for anything else."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.verify()
            return str(image.format).lower()
    except UNREADABLE:
        return ""
