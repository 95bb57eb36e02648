"""A shift towards refusal along a direction fitted on text, independent of the image.

By default as Arditi et al. add it (arXiv 2406.11717, Eq. 3; andyrdt/refusal_direction 9d852fa): unsafe minus safe
mean, not normalised, added to the input of one decoder layer at every token of every forward pass, the layer chosen on
held-out pairs (`refusal_layer`). The settings narrow it down to what ShiftDC edits, the last prompt token during
prefill, so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from shiftdc_eval.backbones import Backbone, GenerationSettings
from shiftdc_eval.backbones.interface import Capability
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools, steered
from shiftdc_eval.defenses.contrast import SIDES, ContrastSet
from shiftdc_eval.defenses.layer_range import LayerRange, layer_range
from shiftdc_eval.defenses.passes import CHOOSES, STEERS
from shiftdc_eval.steering import PREFILL, AdaptiveShift, Edit, SafetyDirection, Scope, Shift


class RefusalDirection(Settings):
    """Add `alpha` times the unsafe-minus-safe direction at the chosen layers, to every request."""

    name: ClassVar[str] = "refusal_direction"
    source: ClassVar[str] = "arXiv 2406.11717; andyrdt/refusal_direction 9d852fa"
    status = "code"
    extra_cost: ClassVar[str] = "none (once: the layer is chosen on held-out pairs)"
    answer_changes: ClassVar[int] = 1
    needs: ClassVar[frozenset[Capability]] = CHOOSES

    layers: LayerRange = None
    """Decoder layers, `first-last`; `auto`, or None: one, chosen on held-out pairs."""
    alpha: float = Field(default=1.0, allow_inf_nan=False)
    """Strength, in units of the distance between the unsafe and the safe mean."""
    positions: Literal["all", "last"] = "all"
    """Every token, as the authors do it, or the newest alone."""
    passes: Literal["every", "prefill"] = "every"
    """Decode steps too, as the authors do it, or the prompt alone."""
    site: Literal["input", "output"] = "input"
    """Where the layer's residual stream is read and edited; the authors' code: its input."""
    adaptive: bool = False
    """Ours: act only where the activation's own coordinate along the direction is on the "safe" side of zero, and
    remove `alpha` times that coordinate."""

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """All settings; layers that are yet to be chosen are `auto`, and an answer's notes name the choice."""
        given = self._given(backbone)
        return {
            **self.model_dump(mode="json"),
            "layers": "auto" if given is None else f"{given[0]}-{given[-1]}",
        }

    def _given(self, backbone: Backbone) -> list[int] | None:
        if self.layers in (None, "auto"):
            return None
        layers = layer_range(self.layers, len(backbone.layers), default_start=0)
        if self.site == "input" and layers[0] == 0:
            raise ConfigError(
                f"layers={self.layers}: the input of layer 0 is the embedding of the template's last token, the same "
                "for all texts, so there is no direction; begin at layer 1, or use site=output"
            )
        return layers

    def needed(self) -> frozenset[Capability]:
        """At given layers and with ShiftDC's scope no more than ShiftDC needs."""
        given = self.layers not in (None, "auto")
        return STEERS if given and self._scope == PREFILL else CHOOSES

    @property
    def needs_kv_cache(self) -> bool:
        """Where the newest token of every pass is edited."""
        return self.positions == "last" and self.passes == "every"

    def fit_prompts(self, fitted: ContrastSet) -> list[Hashable]:
        """Both sides' texts, with captions too."""
        return [(False, text) for side in SIDES for text in fitted.prompts(side)]

    @property
    def _scope(self) -> Scope:
        return Scope(self.positions, self.passes, self.site)

    @property
    def uses_contrast(self) -> bool:
        """Where it chooses the layer."""
        return self.layers in (None, "auto")

    def direction_of(self, tools: Tools) -> SafetyDirection:
        """The fitted direction."""
        return tools.direction()

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Steered answers, with and without images alike."""
        layers = self._given(tools.backbone)
        notes: tuple[str, ...] = ()
        if layers is None:
            choice = tools.direction.refusal_layer()
            # the input of a layer is the output of the one below
            layers = [choice.layer if self.site == "input" else choice.layer - 1]
            notes = (choice.note,)
        edits = self._edits(tools, layers)
        return steered(tools, requests, settings, *notes, edit=lambda _rows: edits, scope=self._scope)

    def _edits(self, tools: Tools, layers: Sequence[int]) -> dict[int, Edit]:
        vectors = self.direction_of(tools).vectors
        edits: dict[int, Edit] = {}
        for layer in layers:
            safe_minus_unsafe = vectors[layer - 1 if self.site == "input" else layer]
            if self.adaptive:
                edits[layer] = AdaptiveShift(safe_minus_unsafe, 0.0, self.alpha)
            else:
                edits[layer] = Shift(-self.alpha * safe_minus_unsafe)
        return edits
