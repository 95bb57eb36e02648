"""SRT with its raw direction: one vector, added at every token, carries text's refusal over to pictures.

Source: Xiao et al. 2026, "Transfer Safety Awareness for Cross-Modal Safety Drift in MLLMs": `h <- h + alpha v` at all
token positions of one layer. The trained refinement of the vector is not built. `refusal_transfer` fits it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from shiftdc_eval.backbones import Backbone, GenerationSettings
from shiftdc_eval.backbones.interface import Capability
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools, steered
from shiftdc_eval.defenses.contrast import ContrastSet
from shiftdc_eval.defenses.layer_range import LayerRange, layer_range
from shiftdc_eval.defenses.passes import CHOOSES
from shiftdc_eval.defenses.refusal_transfer import FONT, fit_transfer
from shiftdc_eval.steering import SafetyDirection, Scope, Shift
from shiftdc_eval.tasks.fonts import find_font


class SrtRaw(Settings):
    """Add `alpha` times the vector to every token of every request, with and without images alike."""

    name: ClassVar[str] = "srt_raw"
    source: ClassVar[str] = "SRT's raw direction (Xiao et al. 2026; from the text), fitted on pairs of ours"
    status = "text"
    extra_cost: ClassVar[str] = "none (once: layers x template tokens x 2 x scored image prefills)"
    needs: ClassVar[frozenset[Capability]] = CHOOSES

    alpha: float = Field(default=1.0, allow_inf_nan=False)
    """Strength; 1 is the paper's. The choice of layer and token is made at 1."""
    decode: bool = True
    """Add it to generated tokens too; the paper does not say."""
    layers: LayerRange = None
    """Candidate decoder layers, `first-last`; all when None."""
    scored: int = Field(default=16, ge=1)
    """Most pictures a side on which candidates are compared; the paper takes its whole sets."""

    def _candidates(self, backbone: Backbone) -> list[int]:
        return layer_range(self.layers, len(backbone.layers), default_start=0)

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """All settings; what the fit chooses is `auto` until it is `fitted`."""
        layers = self._candidates(backbone)
        return {**super().resolved(backbone), "layers": f"{layers[0]}-{layers[-1]}", "chosen": "auto"}

    def fitted(self, tools: Tools) -> dict[str, Any]:
        """Layer, token, G and refusal tokens, in the words of an answer's note."""
        return {"chosen": self.direction_of(tools).created_by}

    def fit_prompts(self, fitted: ContrastSet) -> list[Hashable]:
        """Unsafe requests with a plain image and drawn, safe ones drawn; the search for the layer comes on top."""
        pairs = fitted.pairs
        return [
            *(("plain", pair.unsafe) for pair in pairs),
            *(("drawn", text) for pair in pairs for text in (pair.unsafe, pair.safe)),
        ]

    def direction_of(self, tools: Tools) -> SafetyDirection:
        """The vector, in the row of the layer that it is added to; the other rows are zero."""

        def vectors(fitted: ContrastSet, batch_size: int) -> tuple[Tensor, str]:
            backbone = tools.backbone
            found = fit_transfer(
                backbone,
                fitted,
                layers=[
                    layer
                    for layer in self._candidates(backbone)
                    if layer not in backbone.skipped_without_image
                ],
                scored=self.scored,
                batch_size=batch_size,
            )
            rows = torch.zeros(len(backbone.layers), backbone.hidden_size)
            rows[found.layer] = found.vector
            return rows, found.note

        font = file_sha256(find_font(FONT))[:16]
        kind = f"srt_raw layers={self.layers or 'all'} scored={self.scored} font={font}"
        return tools.direction.fitted(kind, vectors)

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Steered answers."""
        direction = self.direction_of(tools)
        edits = {layer: Shift(self.alpha * row) for layer, row in enumerate(direction.vectors) if row.any()}
        scope = Scope(positions="all", passes="every" if self.decode else "prefill")
        note = direction.created_by
        return steered(tools, requests, settings, note, edit=lambda _rows: edits, scope=scope)
