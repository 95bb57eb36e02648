"""CMRM: subtract the shift that an image as such causes (arXiv 2410.09047).

At every layer `h(text, image) - alpha * [h(text, meaningless image) - h(text)]`: the effect of any image is removed,
the effect of this image's content is kept. No caption and no safety direction.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from shiftdc_eval.backbones import Backbone, GenerationSettings
from shiftdc_eval.backbones.interface import Capability, EditBuilder
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools, steered
from shiftdc_eval.defenses.contrast import SIDES, ContrastSet
from shiftdc_eval.defenses.directions import meaningless
from shiftdc_eval.defenses.layer_range import LayerRange, layer_range
from shiftdc_eval.defenses.none import images_only
from shiftdc_eval.defenses.passes import STEERS, TEXT_ALONE, Pass
from shiftdc_eval.steering import SafetyDirection, Shift


class Cmrm(Settings):
    """The shift of a meaningless image, measured for each request or once for all."""

    name: ClassVar[str] = "cmrm"
    source: ClassVar[str] = "arXiv 2410.09047"
    status = "text"
    extra_cost: ClassVar[str] = "sample: one image prefill, one text-only prefill; dataset: none"
    answer_changes: ClassVar[int] = 1
    needs: ClassVar[frozenset[Capability]] = STEERS

    level: Literal["sample", "dataset"] = "sample"
    """`sample`: the shift is measured with the request's own text; `dataset`: its mean over the texts that the safety
    direction is fitted on, measured once."""
    against: Literal["blank", "noise"] = "blank"
    """The meaningless image: white, or uniform noise; of the request's image's size (`sample`) or 224 x 224."""
    alpha: float = Field(default=1.0, allow_inf_nan=False)
    """Share of the shift that is subtracted."""
    layers: LayerRange = None
    """Decoder layers, `first-last`; all when None."""

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """All settings, with the layers spelled out."""
        layers = self._layers(backbone)
        return {**self.model_dump(mode="json"), "layers": f"{layers[0]}-{layers[-1]}"}

    def _layers(self, backbone: Backbone) -> list[int]:
        return layer_range(self.layers, len(backbone.layers), default_start=0)

    def direction_of(self, tools: Tools) -> SafetyDirection | None:
        """The mean shift over the contrast set; None where each request has its own."""
        return tools.direction.image_shift(self.against) if self.level == "dataset" else None

    def fit_prompts(self, fitted: ContrastSet) -> list[Hashable]:
        """`dataset`: every text with the meaningless image and alone."""
        if self.level == "sample":
            return []
        texts = [text for side in SIDES for text in fitted.prompts(side)]
        return [*((self.against, text) for text in texts), *((False, text) for text in texts)]

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Answers with the shift subtracted; requests without an image are answered undefended."""
        return images_only(tools, requests, settings, self._calibrated)

    def extra_passes(self) -> list[Pass]:
        """`sample`: the meaningless image and the text alone; `dataset`: none."""
        return [Pass("activations", (self.against,)), TEXT_ALONE] if self.level == "sample" else []

    def _calibrated(
        self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings
    ) -> list[Answer]:
        return steered(tools, requests, settings, edit=self._edits(tools, requests))

    def _edits(self, tools: Tools, requests: Sequence[Request]) -> EditBuilder:
        layers = self._layers(tools.backbone)
        mean = self.direction_of(tools)
        if mean is not None:
            return lambda _rows: {layer: Shift(-self.alpha * mean.vectors[layer]) for layer in layers}
        shift = self._shift(tools.backbone, requests, layers)
        return lambda rows: {layer: Shift(-self.alpha * shift[rows, at]) for at, layer in enumerate(layers)}

    def _shift(self, backbone: Backbone, requests: Sequence[Request], layers: Sequence[int]) -> Tensor:
        """`[batch, chosen layers, hidden]`: with a meaningless image minus without any, measured on unedited runs."""
        chats = [request.chat for request in requests]
        neutral = [
            chat.with_images([meaningless(image.size, self.against) for image in chat.images])
            for chat in chats
        ]
        alone = [chat.without_images() for chat in chats]
        return (
            backbone.last_token_activations(neutral, layers).float()
            - backbone.last_token_activations(alone, layers).float()
        )
