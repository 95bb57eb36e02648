"""A direction source whose directions are given, for tests that are not about fitting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from shiftdc_eval.defenses.contrast import ContrastSet, load_contrast
from shiftdc_eval.defenses.refusal_layer import LayerChoice
from shiftdc_eval.steering import SafetyDirection


@dataclass(frozen=True)
class FixedDirections:
    """The same direction for every way of fitting; refusal directions are added at one layer."""

    direction: SafetyDirection
    layer: int = 2
    made: dict[str, SafetyDirection] = field(default_factory=dict, compare=False)

    def __call__(self, *, post_norm_last: bool = False, bare: bool = False) -> SafetyDirection:
        return self.direction

    def image_shift(self, against: str) -> SafetyDirection:
        return self.direction

    def refusal_layer(self) -> LayerChoice:
        return LayerChoice(self.layer, within_limits=True, own_refusals=True)

    def fitted(
        self, kind: str, vectors: Callable[[ContrastSet, int], Any], *, held_out: bool = False
    ) -> SafetyDirection:
        if kind.startswith("srt_raw"):  # its search takes long; tests of its own run it
            rows = torch.zeros_like(self.direction.vectors)
            rows[self.layer] = self.direction.vectors[self.layer]
            return replace(self.direction, vectors=rows)
        if kind not in self.made:
            pairs = ContrastSet(load_contrast().pairs[:8], "few")
            self.made[kind] = replace(self.direction, vectors=vectors(pairs, 8))
        return self.made[kind]

    def chosen(self, kind: str, choose: Callable[[ContrastSet, ContrastSet, int], Any]) -> Any:
        pairs = load_contrast().pairs
        return choose(ContrastSet(pairs[:8], "few"), ContrastSet(pairs[8:12], "others"), 8)
