"""CoCA: contrast of the logits with and without a safety principle (arXiv 2409.11365).

At every step `with + alpha * (with - without)`: the logits of the prompt with the principle, pushed further away from
those without it. Both runs see the same answer so far. Constants and the place of the principle (before the request,
one blank between them) as in OmniSafeBench-MM a4875c6.
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
from shiftdc_eval.backbones.interface import Capability, NextLogits
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools
from shiftdc_eval.defenses.passes import Pass
from shiftdc_eval.defenses.prompts import prompt


class Coca(Settings):
    """Contrastive decoding with a safety principle; requests without an image get it too."""

    name: ClassVar[str] = "coca"
    source: ClassVar[str] = "arXiv 2409.11365; constants of OmniSafeBench-MM a4875c6"
    status = "code"
    extra_cost: ClassVar[str] = "a second decoding run alongside"
    answer_changes: ClassVar[int] = 1
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate", "logits"})

    alpha: float = Field(default=4.0, allow_inf_nan=False)
    """Strength of the contrast; 0 decodes with the principle in the prompt and nothing more."""
    principle: str | None = None
    """Text put before the request; the published one when None."""

    def extra_passes(self) -> list[Pass]:
        """The run without the principle alongside."""
        return [Pass("answers", without_image=True)]

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Answers decoded from contrasted logits."""
        principle = self.principle if self.principle is not None else prompt("coca_principle")
        chats = [request.chat for request in requests]
        guided = [chat.with_request(f"{principle} {chat.request}") for chat in chats]

        def processors(rows: Sequence[int], encoded: Encoded) -> Iterable[LogitsProcessor]:
            return [
                Contrast(tools.backbone.follower([chats[row] for row in rows]), encoded.width, self.alpha)
            ]

        seeds = [request.seed for request in requests]
        return [
            Answer.of(answer)
            for answer in tools.backbone.generate(guided, settings, seeds=seeds, processors=processors)
        ]


class Contrast(LogitsProcessor):  # type: ignore[misc]
    """Adds `alpha * (with - without)` to the logits with the principle, running the prompt without it alongside."""

    def __init__(self, without: NextLogits, width: int, alpha: float) -> None:
        self._without, self._width, self._alpha = without, width, alpha

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        without = self._without.next_logits(input_ids[:, self._width :]).to(scores)
        # tokens ruled out (-inf) stay ruled out: inf - inf would be NaN
        mixed = scores + self._alpha * (scores - without)
        return torch.where(torch.isfinite(scores), mixed, scores)
