"""Images: damaged ones are errors that name the file, what is not plain RGB becomes so by one rule each."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import image_sha256
from shiftdc_eval.core.images import changes_of, load_image


@pytest.fixture(autouse=True, params=[True, False], ids=["lenient", "strict"])
def _pillow(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """lmms-eval lets Pillow load truncated files; without it Pillow refuses them."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", request.param)


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)  # type: ignore[arg-type]
    return buffer.getvalue()


def noise(size: tuple[int, int] = (90, 60)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


KINDS = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("WEBP", {}),
    ("GIF", {}),
    ("BMP", {}),
    ("TIFF", {}),
]


@pytest.mark.parametrize(("kind", "settings"), KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.98])
def test_a_truncated_image_is_found_as_a_file_as_bytes_and_as_an_open_image(
    kind: str, settings: dict[str, object], share: float, tmp_path: Path
) -> None:
    whole = encoded(noise(), kind, **settings)
    assert load_image(whole, "whole").size == (90, 60)
    cut = whole[: int(len(whole) * share)]
    path = tmp_path / "cut.png"  # the suffix does not matter
    path.write_bytes(cut)
    allowed = ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(DataError, match=rf"item 7: {path}: broken image: "):
        load_image(path, "item 7")
    with pytest.raises(DataError, match=r"^row 3: broken image: "):
        load_image(cut, "row 3")
    if kind in ("PNG", "JPEG"):
        with pytest.raises(DataError, match=r"^item 8: broken image: "):
            load_image(Image.open(path), "item 8")
    assert allowed == ImageFile.LOAD_TRUNCATED_IMAGES


def test_the_zeros_of_an_interrupted_download_are_found() -> None:
    for kind in ("PNG", "JPEG", "WEBP", "AVIF"):
        whole = encoded(noise(), kind)
        cut = whole[: len(whole) // 2] + bytes(len(whole) // 2)
        with pytest.raises(DataError, match="broken image"):
            load_image(cut, "x")
    assert load_image(encoded(noise(), "JPEG") + bytes(64), "padding after the end marker").size == (90, 60)


@pytest.mark.parametrize("share", [0.05, 0.6, 0.95])
@pytest.mark.parametrize(
    "settings", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"quality": 95, "subsampling": 0}]
)
def test_a_jpeg_that_was_cut_and_closed_with_an_end_marker_is_found(
    settings: dict[str, object], share: float
) -> None:
    whole = encoded(noise(), "JPEG", **settings)
    expected = np.array(Image.open(io.BytesIO(whole)))
    for content in (whole, whole + b"trailing bytes", whole.replace(b"\xff\xd9", b"\xff\xff\xd9")):
        assert np.array_equal(np.array(load_image(content)), expected)
    start = whole.index(b"\xff\xda") + 14
    cut = whole[: start + int((len(whole) - start) * share)].removesuffix(b"\xff")
    with pytest.raises(DataError, match="early|inside a segment"):
        load_image(cut + b"\xff\xd9", "item 7")


def test_a_png_whose_rows_end_early_is_found_although_its_checksums_are_right() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def png(rows: int) -> bytes:
        pixels = zlib.compress(b"".join(b"\0" + b"\x50" * 24 for _ in range(rows)))
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")

    assert load_image(png(8), "x").getpixel((7, 7)) == (0x50, 0x50, 0x50)
    with pytest.raises(DataError, match="x: broken image: the PNG's rows end early"):
        load_image(png(4), "x")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the image file is empty"),
        (b"a text, called .png\n", "broken image: the content is in no image format"),
        (b"\x89PNG\r\n\x1a\n", "broken image"),
    ],
)
def test_what_is_no_image_is_named_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"a.png: {said}") as caught:
        load_image(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"item 1: .*gone\.png: image is missing"):
        load_image(tmp_path / "gone.png", "item 1")
    with pytest.raises(DataError, match=f"{tmp_path}: broken image"):
        load_image(tmp_path)


def png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None])
def test_a_decompression_bomb_is_refused_whatever_pillow_allows(
    limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(DataError, match=r"^bomb: image refused: .*more than 178956970 pixels"):
        load_image(png_of_size(60_000, 60_000), "bomb")


@pytest.mark.parametrize("image", [png_of_size(0, 5), Image.new("RGB", (0, 0))])
def test_an_image_without_pixels_is_refused(image: bytes | Image.Image) -> None:
    with pytest.raises(DataError, match="^x: "):
        load_image(image, "x")


def test_transparency_is_composited_on_white() -> None:
    text = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    text.putpixel((1, 1), (0, 0, 0, 255))
    text.putpixel((2, 2), (0, 0, 0, 128))
    loaded = load_image(encoded(text, "PNG"), "x")
    assert [loaded.getpixel(at) for at in ((0, 0), (1, 1), (2, 2))] == [(255,) * 3, (0,) * 3, (127,) * 3]
    assert changes_of(loaded) == ("transparent_on_white",)
    palette = Image.new("P", (4, 4))
    palette.putpalette([200, 0, 0] + [0] * 765)
    for shown in (
        load_image(encoded(palette, "PNG", transparency=0), "x"),
        load_image(encoded(Image.new("RGB", (4, 4), "red"), "PNG", transparency=(255, 0, 0)), "x"),
        load_image(encoded(Image.new("LA", (4, 4), (0, 0)), "PNG"), "x"),
        load_image(text.convert("RGBA").resize((4, 4)).convert("LA"), "x"),
    ):
        assert shown.getpixel((3, 3)) == (255, 255, 255)
        assert changes_of(shown) == ("transparent_on_white",)


def test_sixteen_bit_grey_is_scaled() -> None:
    values = np.array([[0, 128, 257, 32768, 65278, 65535]], dtype=np.uint16)
    for content in (encoded(Image.fromarray(values), kind) for kind in ("PNG", "TIFF")):
        loaded = load_image(content, "x")
        assert np.asarray(loaded)[0, :, 0].tolist() == [0, 0, 1, 128, 254, 255]  # value / 257, rounded
        assert changes_of(loaded) == ("scaled_from_16_bit",)
    eight = Image.fromarray(np.array([[0, 7, 255]], dtype=np.int32))
    assert np.asarray(load_image(eight, "x"))[0, :, 0].tolist() == [0, 7, 255]
    with pytest.raises(DataError, match="x: pixel values from 0 to 70000 are not 16-bit grey"):
        load_image(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), "x")
    with pytest.raises(DataError, match="x: floating-point pixels"):
        load_image(Image.new("F", (2, 2)), "x")


def test_exif_orientation_is_obeyed_once_so_that_every_source_has_one_hash(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    content = encoded(noise(), "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(content)
    loaded = load_image(tmp_path / "a.jpg")
    assert loaded.size == (60, 90)
    assert changes_of(loaded) == ("rotated_by_exif",)
    for kind in ("PNG", "WEBP", "TIFF"):
        turned = load_image(encoded(noise(), kind, exif=exif), kind)
        assert (turned.size, changes_of(turned)) == ((60, 90), ("rotated_by_exif",))
    again = [
        load_image(content, "row"),
        load_image(Image.open(io.BytesIO(content)), "open"),
        load_image(loaded),
    ]
    assert {image_sha256(image) for image in again} == {image_sha256(loaded)}


def test_the_first_frame_of_an_animation_is_taken_and_noted() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    loaded = load_image(moving, "x")
    assert loaded.getpixel((0, 0)) == (255, 0, 0)
    assert changes_of(loaded) == ("first_frame",)
    late = Image.open(io.BytesIO(moving))
    late.seek(2)
    assert load_image(late, "x").getpixel((0, 0)) == (255, 0, 0)


def test_cmyk_palette_and_black_and_white_become_rgb() -> None:
    cmyk = load_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), "x")
    assert cmyk.getpixel((0, 0)) == (255, 0, 0)
    assert changes_of(cmyk) == ("converted_from_cmyk",)
    for image, colour in (
        (Image.new("RGB", (4, 4), "blue").convert("P"), (0, 0, 255)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("L", (4, 4), 9), (9, 9, 9)),
    ):
        loaded = load_image(encoded(image, "PNG"), "x")
        assert (loaded.mode, loaded.getpixel((0, 0)), changes_of(loaded)) == ("RGB", colour, ())


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_plain_image_keeps_its_pixels_and_is_not_flagged(kind: str) -> None:
    content = encoded(noise(), kind)
    with Image.open(io.BytesIO(content)) as image:
        expected = image_sha256(image)  # as committed cells and journals have it
    loaded = load_image(content, "x")
    assert image_sha256(loaded) == expected
    assert changes_of(loaded) == ()
    assert load_image(loaded) is loaded
    opaque = load_image(encoded(noise().convert("RGBA"), "PNG"), "x")
    assert changes_of(opaque) == ()
    assert image_sha256(opaque) == image_sha256(noise())
