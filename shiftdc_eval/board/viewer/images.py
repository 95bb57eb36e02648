"""Images for the page of samples: only image files and embedded image data, whatever a row names."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from shiftdc_eval.core.hashing import image_sha256

DATA = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,[A-Za-z0-9+/=\s]+")
TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}
MAX_BYTES = 2_000_000
"""Larger files are linked, not embedded."""


@dataclass
class Pictures:
    """Finds the images of samples."""

    how: str
    """`link`, `embed` or `none`."""
    beside: Path
    """Folder of the page, from which images are linked."""
    folder: Path | None = None
    """Images to search by the hash of their pixels."""
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
        """One image's address; empty when it is neither embedded data nor an image file here."""
        if source.startswith("data:"):
            return source if DATA.fullmatch(source) else ""
        path = Path(source.removeprefix("file://"))
        kind = TYPES.get(path.suffix.lower())
        try:
            if kind is None or not path.is_file():
                return ""
            if self.how == "embed" and path.stat().st_size <= MAX_BYTES:
                return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
            return quote(Path(os.path.relpath(path.resolve(), self.beside)).as_posix())
        except (OSError, ValueError):  # an impossible file name, or an unreadable file
            return ""

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
                    with Image.open(path) as image:
                        yield image_sha256(image), path
                except OSError:  # not an image
                    continue
