"""The images of MiniGPT-4 and Qwen-VL: resized to a square by Pillow, scaled, normalised.

Both models' authors do so with torchvision's transforms on Pillow images (Vision-CAIR/MiniGPT-4
`minigpt4/processors/blip_processors.py`, Qwen-VL-Chat `visual.py`): bicubic without keeping the aspect ratio, CLIP's
mean and standard deviation, transparency left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import BlipImageProcessorPil


class SquareImageProcessor(BlipImageProcessorPil):  # type: ignore[misc]
    """BLIP's image processor on Pillow, under a name of its own.

    transformers saves a processor on Pillow under the name of the one on torchvision and loads that one, whose
    pixels are up to 25 grey levels off.
    """

    def convert_to_rgb(self, image: Image.Image, **_: Any) -> NDArray[np.uint8]:
        """`[height, width, 3]`; transformers would put what is transparent on white."""
        return np.asarray(image.convert("RGB"))
