"""CMRM: subtract the whole modality shift between the image and a blank one (arXiv 2410.09047).

No caption and no safety direction: the direct ablation of ShiftDC's claim that only the safety component
should go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field

from shiftdc_eval.backbones import Backbone, GenerationSettings
from shiftdc_eval.defenses.base import NOT_APPLICABLE, Answer, Request, Settings, Tools, split_by_image
from shiftdc_eval.defenses.layers import layer_range
from shiftdc_eval.defenses.none import undefended
from shiftdc_eval.steering import Shift


class Cmrm(Settings):
    """The sample-level variant: one shift a request, measured on an uncalibrated run."""

    name: ClassVar[str] = "cmrm"
    source: ClassVar[str] = "arXiv 2410.09047"
    shares_prefixes: ClassVar[bool] = True
    extra_cost: ClassVar[str] = "two image prefills"

    against: Literal["blank", "noise"] = "blank"
    """What the image is compared with: a white image or uniform noise of the same size."""
    alpha: float = Field(default=1.0, allow_inf_nan=False)
    """Share of the shift that is subtracted."""
    layers: str | None = None
    """Decoder layers, `first-last`; all when None."""

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """All settings, with the layers spelled out."""
        layers = layer_range(self.layers, len(backbone.layers), default_start=0)
        return {**self.model_dump(mode="json"), "layers": f"{layers[0]}-{layers[-1]}"}

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Answers with the shift subtracted; requests without an image are answered undefended."""
        return split_by_image(
            requests,
            with_image=lambda shown: self._sharing(tools, shown, settings),
            without=lambda plain: undefended(tools, plain, settings, NOT_APPLICABLE),
        )

    def _sharing(
        self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings
    ) -> list[Answer]:
        with tools.backbone.sharing([request.chat for request in requests]):
            return self._calibrated(tools, requests, settings)

    def _calibrated(
        self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings
    ) -> list[Answer]:
        layers = layer_range(self.layers, len(tools.backbone.layers), default_start=0)
        chats = [request.chat for request in requests]
        neutral = [chat.with_images([self._neutral(image) for image in chat.images]) for chat in chats]
        shift = (
            tools.backbone.last_token_activations(chats, layers).float()
            - tools.backbone.last_token_activations(neutral, layers).float()
        )
        generated = tools.backbone.generate(
            chats,
            settings,
            seeds=[request.seed for request in requests],
            edit=lambda rows: {
                layer: Shift(-self.alpha * shift[rows, at]) for at, layer in enumerate(layers)
            },
        )
        return [Answer.of(answer) for answer in generated]

    def _neutral(self, image: Image.Image) -> Image.Image:
        if self.against == "blank":
            return Image.new("RGB", image.size, "white")
        generator = torch.Generator().manual_seed(image.width * 100_003 + image.height)
        noise = torch.randint(0, 256, (image.height, image.width, 3), generator=generator, dtype=torch.uint8)
        return Image.fromarray(noise.numpy())
