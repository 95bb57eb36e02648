"""CoCA: contrast of the logits with and without a safety principle (arXiv 2409.11365).

At every step: `logits + alpha * (logits with the principle - logits)`. Both runs see the same answer so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from transformers import LogitsProcessor

from shiftdc_eval.backbones import GenerationSettings
from shiftdc_eval.backbones.encoding import Encoded
from shiftdc_eval.backbones.following import Follower
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools
from shiftdc_eval.defenses.prompts import prompt


class Coca(Settings):
    """Contrastive decoding with a safety principle; requests without an image get it too."""

    name: ClassVar[str] = "coca"
    source: ClassVar[str] = "arXiv 2409.11365"
    extra_cost: ClassVar[str] = "a second decoding run alongside"

    alpha: float = Field(default=1.0, allow_inf_nan=False)
    """Strength; 0 is no defense, 1 decodes with the principle alone."""
    principle: str | None = None
    """Text put before the request; the package's own when None."""

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Answers decoded from contrasted logits."""
        principle = self.principle if self.principle is not None else prompt("coca_principle")
        chats = [request.chat for request in requests]
        guided = [chat.with_request(principle + chat.request) for chat in chats]

        def processors(rows: Sequence[int], encoded: Encoded) -> Iterable[LogitsProcessor]:
            return [
                Contrast(tools.backbone.follower([guided[row] for row in rows]), encoded.width, self.alpha)
            ]

        seeds = [request.seed for request in requests]
        return [
            Answer.of(answer)
            for answer in tools.backbone.generate(chats, settings, seeds=seeds, processors=processors)
        ]


class Contrast(LogitsProcessor):  # type: ignore[misc]
    """Adds `alpha * (guided - plain)` to the logits, running the guided prompt alongside."""

    def __init__(self, guided: Follower, width: int, alpha: float) -> None:
        self._guided, self._width, self._alpha = guided, width, alpha

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        guided = self._guided.next_logits(input_ids[:, self._width :]).to(scores)
        # what is forbidden stays forbidden: inf - inf would be NaN
        mixed = scores + self._alpha * (guided - scores)
        return torch.where(torch.isfinite(scores), mixed, scores)
