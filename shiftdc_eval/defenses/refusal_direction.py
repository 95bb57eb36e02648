"""A push towards refusal along the text-derived direction, whatever the image did.

After Arditi et al. 2024 (arXiv 2406.11717): add a fixed refusal direction; with `adaptive`, ASTRA's rule
(arXiv 2411.16721). Shows whether ShiftDC is more than a push towards refusal. Prefill only, last prompt
token, like ShiftDC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from shiftdc_eval.backbones import Backbone, GenerationSettings
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools
from shiftdc_eval.defenses.layers import layer_range
from shiftdc_eval.steering import AdaptiveShift, Edit, SafetyDirection, Shift


class RefusalDirection(Settings):
    """Add `alpha` times the unsafe-minus-safe direction at the chosen layers, to every request."""

    name: ClassVar[str] = "refusal_direction"
    source: ClassVar[str] = "arXiv 2406.11717; adaptive rule arXiv 2411.16721"

    layers: str | None = None
    """Decoder layers, `first-last`; the middle one when None."""
    alpha: float = Field(default=1.0, allow_inf_nan=False)
    """Strength, in units of the distance between the unsafe and the safe mean."""
    adaptive: bool = False
    """Act only where the activation's own coordinate along the direction is on the "safe" side of zero, and
    remove `alpha` times that coordinate: ASTRA's `max(0, .)`, without its calibration activation."""

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """All settings, with the layers spelled out."""
        layers = self._layers(backbone)
        return {**self.model_dump(mode="json"), "layers": f"{layers[0]}-{layers[-1]}"}

    def _layers(self, backbone: Backbone) -> list[int]:
        middle = len(backbone.layers) // 2
        return layer_range(
            self.layers if self.layers is not None else str(middle), len(backbone.layers), default_start=0
        )

    def direction_of(self, tools: Tools) -> SafetyDirection:
        """The fitted direction."""
        return tools.direction()

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Steered answers, with and without images alike."""
        direction = self.direction_of(tools)
        edits: dict[int, Edit] = {}
        for layer in self._layers(tools.backbone):
            safe_minus_unsafe = direction.vectors[layer]
            if self.adaptive:
                edits[layer] = AdaptiveShift(safe_minus_unsafe, 0.0, self.alpha)
            else:
                edits[layer] = Shift(-self.alpha * safe_minus_unsafe)
        chats = [request.chat for request in requests]
        seeds = [request.seed for request in requests]
        return [
            Answer.of(answer)
            for answer in tools.backbone.generate(chats, settings, seeds=seeds, edit=lambda _rows: edits)
        ]
