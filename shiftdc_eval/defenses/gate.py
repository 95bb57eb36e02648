"""A gate in front of any defense: it answers only what a detector's score exceeds the threshold of (a cascade).

The rest is answered undefended, so the defense costs nothing there beyond the gate's one prefill.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field, create_model

from shiftdc_eval.backbones import Backbone, GenerationSettings
from shiftdc_eval.backbones.interface import Capability
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses.base import SENT_ON, Answer, Request, Settings, Tools, split
from shiftdc_eval.defenses.contrast import ContrastSet
from shiftdc_eval.defenses.hidden_detect import HiddenDetect, Threshold, with_scores
from shiftdc_eval.defenses.layer_range import LayerRange
from shiftdc_eval.defenses.none import undefended
from shiftdc_eval.defenses.passes import Pass


class Gated(Settings):
    """What a gate adds to a defense, as the first base of its class (`gated`)."""

    asks_model: ClassVar[bool] = True

    gate: Literal["hidden_detect"]
    """The detector that decides."""
    gate_layers: LayerRange = None
    """Its `layers`."""
    gate_threshold: Threshold = None
    """Its `threshold`: -inf sends everything on, inf nothing."""
    gate_false_positives: float = Field(default=0.05, ge=0, lt=1)
    """Its `false_positives`."""

    @property
    def _detector(self) -> HiddenDetect:
        return HiddenDetect(
            layers=self.gate_layers, threshold=self.gate_threshold, false_positives=self.gate_false_positives
        )

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Defended answers above the threshold, undefended ones below, and the score of each."""
        detector = self._detector.detector(tools)
        scores = detector.scores(tools.backbone, [request.chat for request in requests])
        defend = super().answer
        answers = split(
            requests,
            detector.exceeded(scores),
            lambda sent: [one.with_extra(SENT_ON) for one in defend(tools, sent, settings)],
            lambda others: undefended(tools, others, settings),
        )
        return with_scores(answers, scores)

    def needed(self) -> frozenset[Capability]:
        """What the defense needs, and what the detector needs."""
        return super().needed() | self._detector.needed()

    @property
    def answer_version(self) -> int:
        """Raised by changes of either."""
        return super().answer_version + self._detector.answer_changes

    def fit_prompts(self, fitted: ContrastSet) -> list[Hashable]:
        """Those of either, each once."""
        return list(dict.fromkeys([*super().fit_prompts(fitted), *self._detector.fit_prompts(fitted)]))

    def extra_passes(self) -> list[Pass]:
        """The prefill that is scored, then the defense's own."""
        return [*self._detector.extra_passes(), *super().extra_passes()]

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """The defense's settings, then the detector's as `gate_...`."""
        try:
            own = self._detector.resolved(backbone)
        except ConfigError as error:
            raise ConfigError(f"gate={self.gate}: {error}") from error
        return {**super().resolved(backbone), "gate": self.gate, **_named(own)}

    def fitted(self, tools: Tools) -> dict[str, Any]:
        """What the defense fits, and what the detector does."""
        return {**super().fitted(tools), **_named(self._detector.fitted(tools))}


def _named(settings: dict[str, Any]) -> dict[str, Any]:
    return {f"gate_{name}": value for name, value in settings.items()}


@cache
def gated(defense: type[Settings]) -> type[Settings]:
    """The class of a defense behind a gate: the same name, with the gate's settings beside its own."""
    return create_model(defense.__name__, __base__=(Gated, defense))
