"""A direction source whose directions are given, for tests that are not about fitting."""

from __future__ import annotations

from dataclasses import dataclass

from shiftdc_eval.defenses.refusal_layer import LayerChoice
from shiftdc_eval.steering import SafetyDirection


@dataclass(frozen=True)
class FixedDirections:
    """The same direction for every way of fitting; refusal directions are added at one layer."""

    direction: SafetyDirection
    layer: int = 2

    def __call__(self, *, post_norm_last: bool = False, bare: bool = False) -> SafetyDirection:
        return self.direction

    def image_shift(self, against: str) -> SafetyDirection:
        return self.direction

    def refusal_layer(self) -> LayerChoice:
        return LayerChoice(self.layer, within_limits=True, own_refusals=True)
