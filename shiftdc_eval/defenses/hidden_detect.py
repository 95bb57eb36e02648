"""HiddenDetect: refuse where the layers are near to refusing (arXiv 2502.14744; leigest519/HiddenDetect@2fd161b).

The score of a request is the area under `F_l` (`refusal_words`) over the layers `s` to `e`, by the trapezoidal rule
with unit spacing, from one prefill. Above the threshold the answer is a fixed text, else the undefended one.

The layers are the first to the last whose mean difference `F_l(unsafe) - F_l(safe)` exceeds the last layer's
(code/safety_aware_layers.py), on the contrast set's fitted pairs: the authors' few texts cannot be read. They give no
threshold; here it is fitted on the safe texts of the held-out fifth.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import AfterValidator, Field
from torch import Tensor

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings
from shiftdc_eval.backbones.interface import Capability
from shiftdc_eval.core import statistics
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses.base import (
    DETECTOR_SCORE,
    REFUSED_BY_DETECTOR,
    Answer,
    Request,
    Settings,
    Tools,
    split,
)
from shiftdc_eval.defenses.contrast import SIDES, ContrastSet
from shiftdc_eval.defenses.layer_range import LayerRange, layer_range
from shiftdc_eval.defenses.none import undefended
from shiftdc_eval.defenses.passes import Pass
from shiftdc_eval.defenses.prompts import prompt
from shiftdc_eval.defenses.refusal_words import ContrastCosines, contrast_cosines, cosines, ids_sha256


@dataclass(frozen=True)
class Detector:
    """A detector with its layers and its threshold."""

    layers: list[int]
    threshold: float

    def scores(self, backbone: Backbone, chats: Sequence[Chat]) -> list[float]:
        """The score of each chat, from one prefill."""
        return area(cosines(backbone, chats), self.layers)

    def exceeded(self, scores: Sequence[float]) -> list[bool]:
        """Whether each score is above the threshold."""
        return [score > self.threshold for score in scores]


def _no_nan(value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise ValueError("give a number; inf exceeds every score, -inf none")
    return value


Threshold = Annotated[float | None, AfterValidator(_no_nan)]
"""A threshold as a setting, infinities included."""


class HiddenDetect(Settings):
    """A fixed refusal where the score exceeds the threshold, else the undefended answer; with and without images."""

    name: ClassVar[str] = "hidden_detect"
    source: ClassVar[str] = (
        "arXiv 2502.14744; leigest519/HiddenDetect 2fd161b; answer of OmniSafeBench-MM a4875c6"
    )
    status = "code"
    extra_cost: ClassVar[str] = "one prefill; no answer where it refuses"
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate", "activations", "final_norm", "logits"})

    layers: LayerRange = None
    """Decoder layers, `first-last`, at least two; chosen on the contrast set when None."""
    threshold: Threshold = None
    """Scores above it are refused; fitted on the contrast set when None."""
    false_positives: float = Field(default=0.05, ge=0, lt=1)
    """Share of the contrast set's held-out safe texts that a fitted threshold may refuse."""

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """All settings; what the contrast set decides is `auto` until it is `fitted`."""
        given = self._given(backbone)
        return {
            "layers": "auto" if given is None else f"{given[0]}-{given[-1]}",
            "threshold": "auto" if self.threshold is None else _number(self.threshold),
            "false_positives": self.false_positives,
        }

    def _given(self, backbone: Backbone) -> list[int] | None:
        if len(backbone.layers) < 2:
            raise ConfigError("hidden_detect needs a model with two decoder layers at least")
        if self.layers is None:
            return None
        layers = layer_range(self.layers, len(backbone.layers), default_start=0)
        if len(layers) < 2:
            raise ConfigError(
                f"layers={self.layers}: the area over one layer is zero; name two at least, e.g. layers=16-29"
            )
        return layers

    def fitted(self, tools: Tools) -> dict[str, Any]:
        """Layers and threshold, and under `fitted` how well they tell the contrast set's held-out texts apart."""
        found = self.detector(tools)
        contrast = contrast_cosines(tools)
        safe, unsafe = (
            np.array(area(side, found.layers)) for side in (contrast.held_out_safe, contrast.held_out_unsafe)
        )
        auroc, _ = statistics.areas(unsafe, safe, np.arange(len(unsafe)), np.arange(len(safe)))
        return {
            "layers": f"{found.layers[0]}-{found.layers[-1]}",
            "threshold": _number(found.threshold),
            "fitted": {
                "auroc": round(auroc.value, 6),
                "refused_unsafe": round(float((unsafe > found.threshold).mean()), 6),
                "refused_safe": round(float((safe > found.threshold).mean()), 6),
                "texts": len(safe) + len(unsafe),
                "layers_above_last": len(better_layers(contrast)),
                "contrast_sha256": contrast.contrast_sha256,
                "words_sha256": ids_sha256(tools.backbone),
            },
        }

    def detector(self, tools: Tools) -> Detector:
        """The detector of these settings."""
        contrast = contrast_cosines(tools)
        layers = self._given(tools.backbone) or aware_layers(contrast)
        threshold = self.threshold
        if threshold is None:
            threshold = threshold_at(area(contrast.held_out_safe, layers), self.false_positives)
        return Detector(layers, threshold)

    def fit_prompts(self, fitted: ContrastSet) -> list[Hashable]:
        """Both sides' texts, with captions too."""
        return [(False, text) for side in SIDES for text in fitted.prompts(side)]

    def extra_passes(self) -> list[Pass]:
        """The prefill that is scored."""
        return [Pass("activations", ("image",), without_image=True)]

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """The fixed refusal or the undefended answer, and the score of each."""
        detector = self.detector(tools)
        scores = detector.scores(tools.backbone, [request.chat for request in requests])
        refusal = Answer(prompt("template_refusal"), 0, 0, (REFUSED_BY_DETECTOR,))
        answers = split(
            requests,
            detector.exceeded(scores),
            lambda refused: [refusal] * len(refused),
            lambda others: undefended(tools, others, settings),
        )
        return with_scores(answers, scores)


def with_scores(answers: Sequence[Answer], scores: Sequence[float]) -> list[Answer]:
    """The answers with the scores that they were decided by."""
    return [
        answer.with_extra(**{DETECTOR_SCORE: score}) for answer, score in zip(answers, scores, strict=True)
    ]


def area(values: Tensor, layers: Sequence[int]) -> list[float]:
    """Area under `[n, layers]` over the chosen layers, by the trapezoidal rule: `[n]`."""
    chosen = values[:, list(layers)].double()
    found: list[float] = (chosen.sum(dim=1) - (chosen[:, 0] + chosen[:, -1]) / 2).tolist()
    return found


def better_layers(contrast: ContrastCosines) -> list[int]:
    """The layers that tell unsafe from safe texts better than the last layer does."""
    difference = (contrast.fit_unsafe.double().mean(dim=0) - contrast.fit_safe.double().mean(dim=0)).tolist()
    return [layer for layer, value in enumerate(difference) if value > difference[-1]]


def aware_layers(contrast: ContrastCosines) -> list[int]:
    """The first to the last of the `better_layers`.

    At least two layers, since the area over one is zero; the last two where no layer is better than the last.
    """
    better = better_layers(contrast)
    first, last = (better[0], better[-1]) if better else (contrast.fit_safe.shape[1] - 2,) * 2
    return list(range(first, max(last, first + 1) + 1))


def threshold_at(safe: Sequence[float], rate: float) -> float:
    """The threshold that at most this share of the safe scores exceeds.

    It lies midway between two scores, so that rounding decides nothing; with a share of zero it is the highest score.
    """
    ordered = sorted(safe, reverse=True)
    above = math.floor(rate * len(ordered) + 1e-9)
    return (ordered[max(above - 1, 0)] + ordered[above]) / 2


def _number(value: float) -> float | str:
    """JSON has no word for infinities."""
    return value if math.isfinite(value) else str(value)
