"""Opening images: one way for benchmarks, chat messages, judges and the viewer.

A damaged file is an error, never a picture that is half black. What is not plain 8-bit RGB becomes so by one
rule each, and the image says which rules were applied (`changes_of`). A plain RGB image keeps its pixels.
"""

from __future__ import annotations

import base64
import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from shiftdc_eval.core.errors import DataError

TRANSPARENT = "transparent_on_white"
SIXTEEN_BIT = "scaled_from_16_bit"
ROTATED = "rotated_by_exif"
FIRST_FRAME = "first_frame"
CMYK = "converted_from_cmyk"
CHANGES = (TRANSPARENT, SIXTEEN_BIT, ROTATED, FIRST_FRAME, CMYK)
"""Names of the rules, as they stand in the flags of a sample."""
MAX_PIXELS = 178_956_970
"""Pixels of the largest image that is opened: Pillow's own limit, which a program may have switched off."""

MOST_PNG_BYTES = 4 * 2**20
"""Bytes of an image as PNG; what is larger is sent as JPEG. Servers take 5 to 20 MB, base64 adds a third."""

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends the data of a JPEG's scan."""
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
OTHER_CODING = (0xC3, 0xC5, 0xC6, 0xC7, *range(0xC9, 0xCC), *range(0xCD, 0xD0))
"""Markers of JPEGs without Huffman codes, lossless or hierarchical."""
MORE = bytes.fromhex("5aa53cc3") * 64
"""Data of a scan that decode to something else than zeros."""

_KEY = "shiftdc_changes"
_ORIENTATION = 0x0112
_LOCK = threading.RLock()


@contextmanager
def strict_decoding() -> Iterator[None]:
    """Let Pillow refuse truncated files: lmms-eval allows them for the whole process."""
    with _LOCK:
        allowed = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = allowed


def load_image(source: Path | str | bytes | Image.Image, where: str = "") -> Image.Image:
    """An image as 8-bit RGB, orientation and transparency applied.

    Args:
        source: a file, the content of one, or an image that is already open.
        where: what the image belongs to, for errors; a file's name is added to it.

    Raises:
        DataError: missing, damaged, too large, empty, or in a mode without a defined brightness scale.
    """
    name = f"{where}: {source}" if where and isinstance(source, str | Path) else where or f"{source!s:.200}"
    try:
        with strict_decoding(), warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = source if isinstance(source, Image.Image) else _opened(source, name)
            return _plain(image, name)
    except FileNotFoundError as error:
        raise DataError(f"{name}: image is missing") from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{name}: broken image: the content is in no image format that Pillow reads"
        ) from error
    # what Pillow's decoders raise for damaged content; MemoryError: a size that no file of ours has
    except (
        OSError, SyntaxError, ValueError, TypeError, EOFError, MemoryError, OverflowError, zlib.error, struct.error
    ) as error:  # fmt: skip
        raise DataError(f"{name}: broken image: {_one_line(error)}") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: image refused: more than {MAX_PIXELS} pixels") from error


def plain_grey(load: Callable[[], Image.Image]) -> Image.Image:
    """A plain grey image (128, 128, 128) of the same size."""
    return Image.new("RGB", load().size, (128, 128, 128))


def changes_of(image: Image.Image) -> tuple[str, ...]:
    """Names of the rules (`CHANGES`) that `load_image` applied to get this image."""
    return tuple(image.info.get(_KEY, ()))


def data_url(image: Image.Image) -> str:
    """An image as servers take it: PNG, or JPEG where a PNG would be too large for one."""
    for form, options in (("PNG", {}), ("JPEG", {"quality": 92})):
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format=form, **options)
        if buffer.tell() <= MOST_PNG_BYTES:
            break
    return f"data:image/{form.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def _opened(source: Path | str | bytes, name: str) -> Image.Image:
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    if not content:
        raise DataError(f"{name}: the image file is empty (0 bytes)")
    image = Image.open(io.BytesIO(content))
    if image.format == "PNG":  # checksums and end, which decoding the pixels does not need
        image.verify()
        image = Image.open(io.BytesIO(content))
        _require_rows(content, name)
    # the rest of an interrupted download may be zeros, which decoders of lossy formats take for pixels
    padded = image.format in ("JPEG", "MPO", "WEBP", "AVIF") and content.endswith(bytes(16))
    if padded and not content.rstrip(b"\0").endswith(b"\xff\xd9"):
        raise DataError(f"{name}: broken image: the {image.format} data end in zeros, without an end marker")
    if image.format in ("JPEG", "MPO") and image.width * image.height <= MAX_PIXELS:
        _require_scan(image, content, name)
    return image


def _require_scan(image: Image.Image, content: bytes, name: str) -> None:
    """Refuse a JPEG that was cut and closed with an end marker: the decoder fills the rest with grey.

    A whole scan's decoder never looks at bytes that are put in front of the end marker, a cut one's does. Arithmetic
    coding, which may leave out zeros at its end, is not looked at.
    """
    place = 2
    while content[place : place + 1] == b"\xff" and place + 4 <= len(content):
        marker, size = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker in OTHER_CODING:
            return
        place += 2 + size
        if place > len(content):
            raise DataError(f"{name}: broken image: the JPEG ends inside a segment")
        if marker == START_OF_SCAN:
            found = MARKER.search(content, place)
            if found is None:  # Pillow tells what lacks its end
                return
            place = found.start()
            if content[place + 1] == END_OF_IMAGE:
                # bytes of 255 before a marker fill up
                data = content[:place].rstrip(b"\xff") + MORE
                longer = Image.open(io.BytesIO(data + content[place:]))
                if longer.tobytes() != image.tobytes():
                    raise DataError(f"{name}: broken image: the JPEG's data end early")
                return


def _require_rows(content: bytes, name: str) -> None:
    """Refuse a PNG whose checksums are right but whose pixels end early: Pillow leaves the rest black."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    if interlaced or width * height > MAX_PIXELS:
        return
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    missing = height * (1 + (width * channels * depth + 7) // 8)
    place, unpack = 8, zlib.decompressobj()
    while place + 8 <= len(content) and missing > 0:
        size = int.from_bytes(content[place : place + 4], "big")
        data = content[place + 8 : place + 8 + size] if content[place + 4 : place + 8] == b"IDAT" else b""
        while data and missing > 0:  # by the megabyte: a bomb unpacks to far more
            missing -= len(unpack.decompress(data, 1 << 20))
            data = unpack.unconsumed_tail
        place += size + 12
    if missing > 0:
        raise DataError(f"{name}: broken image: the PNG's rows end early")


def _plain(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise DataError(f"{name}: the image has no pixels ({image.width}x{image.height})")
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{name}: image refused: {image.width}x{image.height} is more than {MAX_PIXELS} pixels"
        )
    changes = list(changes_of(image))
    if getattr(image, "is_animated", False):
        image.seek(0)
        changes.append(FIRST_FRAME)
    tags = [image.getexif().get(_ORIENTATION, 1)]
    image.load()  # turns a TIFF, and finds the tags that stand behind a PNG's pixels
    tags.append(image.getexif().get(_ORIENTATION, 1))
    if tags[1] in range(2, 9):
        image = ImageOps.exif_transpose(image)
    if any(tag in range(2, 9) for tag in tags):
        changes.append(ROTATED)
    image = _eight_bit(image, changes, name)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema() != (255, 255):
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            changes.append(TRANSPARENT)
    if image.mode == "CMYK":
        changes.append(CMYK)
    if image.mode == "RGB" and not isinstance(image, ImageFile.ImageFile) and not image.has_transparency_data:
        plain = image
    else:
        plain = image.convert("RGB")
        plain.info = {}
    if changes:
        plain.info[_KEY] = tuple(dict.fromkeys(changes))
    return plain


def _eight_bit(image: Image.Image, changes: list[str], name: str) -> Image.Image:
    """Grey values of 16 bits scaled to 8, instead of clipped as Pillow's own conversion does."""
    if image.mode == "F":
        raise DataError(
            f"{name}: floating-point pixels have no defined brightness scale; save it as 8-bit RGB"
        )
    if not image.mode.startswith("I"):
        return image
    wide = image.convert("I")
    low, high = cast(tuple[int, int], wide.getextrema())
    if low < 0 or high > 65535:
        raise DataError(
            f"{name}: pixel values from {low} to {high} are not 16-bit grey; save it as 8-bit RGB"
        )
    if image.mode == "I" and high <= 255:
        return wide.convert("L")
    changes.append(SIXTEEN_BIT)
    # point() of mode I takes a linear function alone; 65535 must give 255
    return wide.point(lambda value: value * (1 / 257) + 0.5).convert("L")


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
