"""ASTRA: steer every token away from a jailbreak direction, gated by a cosine (arXiv 2411.16721).

At one decoder layer, at the newest token of every forward pass, `h - alpha clamp(cos(h - c, v), 0, 1) |h| v / |v|`
(ASTRAL-Group/ASTRA@54df103, steer_eval). The authors' `v` is measured with adversarial images and `c` on answers about
benign ones; both are read from their files (`vectors=`, `reference=`). By default, ours and not official, `v` is the
safety direction of the contrast set, which points to what seems safe, and `c` the point midway between its sides.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings
from shiftdc_eval.backbones.interface import Capability
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.defenses.astra_files import mean_activation, published
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools, steered
from shiftdc_eval.defenses.contrast import SIDES, ContrastSet
from shiftdc_eval.defenses.directions import fit_midpoint
from shiftdc_eval.defenses.passes import STEERS
from shiftdc_eval.steering import CosineGated, SafetyDirection, Scope

TEXT = "text"
CHANGED = 0.05
"""Share of benign first tokens below which a strength for text vectors is accepted."""
STRENGTHS = tuple(2.0**power for power in range(-6, 4))
"""Strengths for text vectors, tried in this order until one changes too much."""


@dataclass(frozen=True)
class Strength:
    """A strength chosen on the contrast set."""

    alpha: float
    changed: float
    """Share of the benign texts whose greedy first token it changes."""
    texts: int


class Astra(Settings):
    """ASTRA's adaptive steering, of requests with and without images."""

    name: ClassVar[str] = "astra"
    source: ClassVar[str] = "arXiv 2411.16721; ASTRAL-Group/ASTRA 54df103 (vectors=text: ours)"
    status = "code"
    extra_cost: ClassVar[str] = "none (vectors=text, once: alpha is chosen on held-out texts)"
    needs: ClassVar[frozenset[Capability]] = STEERS | {"edit_decode"}

    vectors: str = TEXT
    """`text`: the contrast set's, ours; else a `.pt` file of the authors with steering activations."""
    reference: str | None = None
    """`.pt` file of the authors with calibration activations; goes with a file in `vectors`."""
    layer: int | None = Field(default=None, ge=0)
    """Decoder layer, 0-based; n/2 - 1 when None, as in all published runs. Their `--steer_layer` is one higher."""
    alpha: float | None = Field(default=None, allow_inf_nan=False)
    """Strength; with `vectors=text` chosen on the contrast set when None."""
    centre: Literal["calibration", "zero"] = "calibration"
    """What the gate's cosine is measured from; `zero`: the origin, an ablation."""
    passes: Literal["every", "prefill"] = "every"
    """`prefill`: the last prompt token alone, as ShiftDC, an ablation."""

    @model_validator(mode="after")
    def _files_come_together(self) -> Self:
        if (self.vectors == TEXT) != (self.reference is None):
            raise ValueError("vectors=FILE and reference=FILE are given together, or neither")
        if self.vectors != TEXT and self.alpha is None:
            known = "; ".join(f"{one['model']}, {one['setup']}: {one['alpha']}" for one in published())
            raise ValueError(f"vectors={self.vectors} needs alpha=; published: {known}")
        return self

    @property
    def needs_kv_cache(self) -> bool:
        """Where every pass is edited."""
        return self.passes == "every"

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """All settings, with the layer; files by name and content; `alpha` is `auto` until it is `fitted`.

        Raises:
            ConfigError: a layer that the model does not have, or a file that does not fit.
        """
        found = {**self.model_dump(mode="json"), "layer": self._layer(backbone)}
        if self.vectors == TEXT:
            return {**found, "alpha": "auto"} if self.alpha is None else found
        self._from_files(backbone)
        for name in ("vectors", "reference"):
            path = Path(found[name])
            found |= {name: path.name, f"{name}_sha256": file_sha256(path)}
        return found

    def _layer(self, backbone: Backbone) -> int:
        count = len(backbone.layers)
        if self.layer is None:
            return max(count // 2 - 1, 0)
        if self.layer >= count:
            raise ConfigError(f"layer={self.layer} does not fit a model with decoder layers 0 to {count - 1}")
        if self.vectors != TEXT and self.layer == count - 1:
            raise ConfigError(
                f"layer={self.layer}: key {count} of the authors' files is the normed state and not the output of the "
                "last layer; take a lower one"
            )
        return self.layer

    @property
    def uses_contrast(self) -> bool:
        """For the centre of text vectors."""
        return self.vectors == TEXT and self.centre == "calibration"

    def direction_of(self, tools: Tools) -> SafetyDirection | None:
        """The safety direction; None where vectors are read from files."""
        return tools.direction() if self.vectors == TEXT else None

    def fit_prompts(self, fitted: ContrastSet) -> list[Hashable]:
        """`vectors=text`: both sides' texts, with captions too."""
        return (
            [(False, text) for side in SIDES for text in fitted.prompts(side)] if self.vectors == TEXT else []
        )

    def fitted(self, tools: Tools) -> dict[str, Any]:
        """The strength that was chosen, and the share of benign first tokens that it changes."""
        if self.alpha is not None:
            return {}
        found = self._strength(tools)
        facts = {"first_tokens_changed": round(found.changed, 6), "texts": found.texts}
        return {"alpha": found.alpha, "fitted": facts}

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Steered answers, with and without images alike."""
        alpha = self._strength(tools).alpha if self.alpha is None else self.alpha
        edits = {self._layer(tools.backbone): CosineGated(*self._vectors(tools), alpha)}
        scope = Scope(passes=self.passes)
        return steered(tools, requests, settings, edit=lambda _rows: edits, scope=scope)

    def _vectors(self, tools: Tools) -> tuple[Tensor, Tensor]:
        """`v` and `c`, `[hidden]` each."""
        layer = self._layer(tools.backbone)
        direction = self.direction_of(tools)
        if direction is None:
            v, c = self._from_files(tools.backbone)
        else:
            v = direction.vectors[layer]
            c = tools.direction.fitted(
                "midpoint", lambda pairs, size: fit_midpoint(tools.backbone, pairs, batch_size=size)
            ).vectors[layer]
        return v, c if self.centre == "calibration" else torch.zeros_like(c)

    def _from_files(self, backbone: Backbone) -> tuple[Tensor, Tensor]:
        layer, width = self._layer(backbone), backbone.hidden_size
        assert self.reference is not None
        v = mean_activation(Path(self.vectors), layer, width, "vectors")
        if not v.any():
            raise ConfigError(
                f"vectors={self.vectors} has a mean of zero at layer={layer}: it points nowhere"
            )
        return v, mean_activation(Path(self.reference), layer, width, "reference")

    def _strength(self, tools: Tools) -> Strength:
        v, c = self._vectors(tools)
        layer = self._layer(tools.backbone)
        return tools.direction.chosen(
            f"astra {layer} {self.centre} {tools.direction().sha256}",
            lambda _fitted, held_out, size: choose_strength(
                tools.backbone, layer, v, c, held_out.prompts("safe"), batch_size=size
            ),
        )


def choose_strength(
    backbone: Backbone, layer: int, v: Tensor, c: Tensor, texts: Sequence[str], *, batch_size: int = 8
) -> Strength:
    """The largest strength that changes the greedy first token of fewer than 5 % of benign texts.

    `STRENGTHS` are tried from below until one changes more; if the first does, it is taken all the same.

    Args:
        backbone: the model.
        layer, v, c: of the edit.
        texts: benign requests without images.
        batch_size: texts a forward pass.
    """
    one = GenerationSettings(max_new_tokens=1)
    chats = [Chat.ask(text) for text in texts]

    def first_tokens(alpha: float) -> list[int]:
        edits = {layer: CosineGated(v, c, alpha)}
        return [
            answer.ids[0]
            for start in range(0, len(chats), batch_size)
            for answer in backbone.generate(chats[start : start + batch_size], one, edit=lambda _rows: edits)
        ]

    usual = first_tokens(0.0)
    best: Strength | None = None
    for alpha in STRENGTHS:
        tokens = first_tokens(alpha)
        changed = sum(a != b for a, b in zip(tokens, usual, strict=True)) / len(usual)
        if changed >= CHANGED:
            return best or Strength(alpha, changed, len(usual))
        best = Strength(alpha, changed, len(usual))
    assert best is not None
    return best
