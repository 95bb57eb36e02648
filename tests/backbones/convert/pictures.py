"""Pictures of every kind that a request may bring; the same on every call."""

from __future__ import annotations

import numpy as np
from PIL import Image


def noise(width: int, height: int, mode: str = "RGB", seed: int = 3) -> Image.Image:
    shape = (height, width, len(mode))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), mode)


def ramps(width: int, height: int) -> Image.Image:
    down, right = np.mgrid[0:height, 0:width]
    channels = (right * 255 // width, down * 255 // height, (right + down) % 256)
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def palette() -> Image.Image:
    image = ramps(90, 80).convert("P")
    image.info["transparency"] = 7
    return image


ALL = {
    "noise": noise(60, 40),
    "larger than the square": noise(500, 600),
    "smooth": ramps(760, 760),
    "thin": noise(3, 500),
    "grey": noise(100, 80).convert("L"),
    "transparent": noise(90, 70, "RGBA"),
    "palette": palette(),
}
