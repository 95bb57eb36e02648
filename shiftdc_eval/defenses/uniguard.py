"""The text half of UniGuard: a guardrail sentence behind the request (arXiv 2411.01703).

The other half, a patch trained for the image, is left out, and so is the optimised text, which is trained too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from shiftdc_eval.backbones import GenerationSettings
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools
from shiftdc_eval.defenses.none import undefended
from shiftdc_eval.defenses.prompts import prompt


class UniGuardText(Settings):
    """The heuristic guardrail on a line of its own; requests without an image get it too."""

    name: ClassVar[str] = "uniguard_text"
    source: ClassVar[str] = "heuristic text of arXiv 2411.01703, as in OmniSafeBench-MM a4875c6"
    status = "code"
    extra_cost: ClassVar[str] = "a longer prompt"

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Undefended answers to requests with the guardrail behind them."""
        guarded = [
            replace(request, chat=request.chat.with_request(f"{request.chat.request}\n{prompt(self.name)}"))
            for request in requests
        ]
        return undefended(tools, guarded, settings)
