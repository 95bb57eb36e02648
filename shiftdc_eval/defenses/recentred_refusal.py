"""Strengthen refusal along a text direction, after the shift that any image causes is taken away from the reading.

A reconstruction after MARS (arXiv 2606.31876) from third parties' accounts: there is no code. At one layer, last prompt
token, prefill: `z = h - shift`, the shift being what plain coloured images cause on average; `a`, the coordinate of `z`
between the safe (-1/2) and the unsafe (+1/2) centroid of texts; `h + step r` with `r` from safe to unsafe, where `step`
grows with `a` and keeps within the unsafe centroid. On which side the gate opens is not stated: `opens=unsafe`, the
default, leaves alone what reads as safe, so benign requests; `opens=safe` moves what reads as safe towards refusal.
How the layer is chosen is not stated either; here: where held-out texts lie furthest apart.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings
from shiftdc_eval.backbones.interface import Capability
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools, steered
from shiftdc_eval.defenses.contrast import SIDES, ContrastSet
from shiftdc_eval.defenses.directions import ANCHOR_SIZE, activations, fit_midpoint
from shiftdc_eval.defenses.none import images_only
from shiftdc_eval.defenses.passes import STEERS
from shiftdc_eval.steering import SafetyDirection, TrustRegionShift, safety_coordinate

COLOURS = tuple(product((64, 192), repeat=3))
"""Red, green and blue of the eight neutral images."""
PAIRS = 16
"""Pairs of the contrast set whose two requests are asked about each neutral image."""


@dataclass(frozen=True)
class Layer:
    """A layer chosen on held-out texts."""

    layer: int
    separation: float
    """Distance of the sides' mean coordinates, in pooled standard deviations."""
    texts: int


class RecentredRefusal(Settings):
    """Towards refusal by as much as the recentred activation reads as unsafe; requests without image: undefended."""

    name: ClassVar[str] = "recentred_refusal"
    source: ClassVar[str] = "ours; a reconstruction after MARS (arXiv 2606.31876), gate and layer rule open"
    status = "reconstruction"
    extra_cost: ClassVar[str] = "none (once: 256 image prefills, and a layer chosen on held-out texts)"
    needs: ClassVar[frozenset[Capability]] = STEERS

    opens: Literal["unsafe", "safe"] = "unsafe"
    """Side on which the gate opens; the paper's is not known."""
    alpha: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """Strength: share of the coordinate that is added; 0 changes nothing."""
    recentre: bool = True
    """Take the mean shift of neutral images away before the coordinate is read; false is an ablation."""
    layer: int | None = Field(default=None, ge=0)
    """Decoder layer, 0-based; chosen on held-out texts when None."""

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """All settings; a layer that is chosen is `auto` until it is `fitted`.

        Raises:
            ConfigError: a layer that the model does not have.
        """
        count = len(backbone.layers)
        if self.layer is not None and self.layer >= count:
            raise ConfigError(f"layer={self.layer} does not fit a model with decoder layers 0 to {count - 1}")
        return {**self.model_dump(mode="json"), "layer": "auto" if self.layer is None else self.layer}

    @property
    def uses_contrast(self) -> bool:
        """For centre and shift."""
        return True

    def direction_of(self, tools: Tools) -> SafetyDirection:
        """The safety direction; refusal is its other end."""
        return tools.direction()

    def fit_prompts(self, fitted: ContrastSet) -> list[Hashable]:
        """Both sides' texts, and requests with each neutral image."""
        texts: list[Hashable] = [(False, text) for side in SIDES for text in fitted.prompts(side)]
        asked = [(colour, text) for colour in COLOURS for text in neutral_requests(fitted)]
        return [*texts, *(asked if self.recentre else [])]

    def fitted(self, tools: Tools) -> dict[str, Any]:
        """The layer that was chosen, and how far apart the held-out texts lie there."""
        if self.layer is not None:
            return {}
        found = self._choice(tools)
        facts = {"separation": round(found.separation, 6), "texts": found.texts}
        return {"layer": found.layer, "fitted": facts}

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Steered answers; requests without an image are answered undefended."""
        return images_only(tools, requests, settings, self._steered)

    def _steered(
        self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings
    ) -> list[Answer]:
        layer = self._choice(tools).layer if self.layer is None else self.layer
        edits = {layer: self.edit(tools, layer)}
        return steered(tools, requests, settings, edit=lambda _rows: edits)

    def edit(self, tools: Tools, layer: int) -> TrustRegionShift:
        """The edit at a layer."""
        given = tools.direction
        centre = given.fitted(
            "midpoint", lambda pairs, size: fit_midpoint(tools.backbone, pairs, batch_size=size)
        ).vectors[layer]
        if self.recentre:
            shift = given.fitted(
                f"colour_shift-{PAIRS}x{len(COLOURS)}",
                lambda pairs, size: fit_colour_shift(tools.backbone, pairs, batch_size=size),
            )
            centre = centre + shift.vectors[layer]
        r = -self.direction_of(tools).vectors[layer]
        return TrustRegionShift(r, centre, self.alpha, self.opens == "safe")

    def _choice(self, tools: Tools) -> Layer:
        direction = self.direction_of(tools)
        return tools.direction.chosen(
            f"separation {direction.sha256}",
            lambda _fitted, held_out, size: most_separating(
                tools.backbone, direction, held_out, batch_size=size
            ),
        )


def neutral_requests(pairs: ContrastSet) -> list[str]:
    """The requests, of both sides and all categories alike, that neutral images are shown with."""
    return [text for pair in pairs.spread()[:PAIRS] for text in (pair.safe, pair.unsafe)]


def fit_colour_shift(backbone: Backbone, pairs: ContrastSet, *, batch_size: int = 8) -> Tensor:
    """Mean of activations with a plain coloured image minus without: `[layers, hidden]`, float32."""
    texts = neutral_requests(pairs)
    alone = (
        activations(backbone, texts, batch_size=batch_size, label="neutral images: text alone")
        .double()
        .mean(0)
    )
    total = torch.zeros_like(alone)
    for colour in COLOURS:
        chats = [Chat.ask(text, [Image.new("RGB", ANCHOR_SIZE, colour)]) for text in texts]
        for start in range(0, len(chats), batch_size):
            batch = backbone.last_token_activations(chats[start : start + batch_size])
            total += batch.double().cpu().sum(0)
    return (total / (len(texts) * len(COLOURS)) - alone).float()


def most_separating(
    backbone: Backbone, direction: SafetyDirection, held_out: ContrastSet, *, batch_size: int = 8
) -> Layer:
    """The layer at which held-out texts lie furthest apart along the direction, in pooled standard deviations."""
    safe, unsafe = (
        safety_coordinate(
            activations(backbone, held_out.prompts(side), batch_size=batch_size, label=f"held-out {side}"),
            direction.vectors,
        ).double()
        for side in SIDES
    )
    spread = ((safe.var(0) + unsafe.var(0)) / 2).sqrt().clamp_min(1e-12)
    separation = (safe.mean(0) - unsafe.mean(0)) / spread
    best = int(separation.argmax())
    return Layer(best, float(separation[best]), len(safe) + len(unsafe))
