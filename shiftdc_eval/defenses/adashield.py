"""AdaShield-S: a fixed shield prompt in the request (SaFoLab-WISC/AdaShield 305df573; arXiv 2403.09513)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from shiftdc_eval.backbones import GenerationSettings
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools
from shiftdc_eval.defenses.none import undefended
from shiftdc_eval.defenses.prompts import prompt


class AdaShieldS(Settings):
    """The static shield; requests without an image get it too, as in the authors' code."""

    name: ClassVar[str] = "adashield_s"
    source: ClassVar[str] = "arXiv 2403.09513; SaFoLab-WISC/AdaShield 305df573"
    status = "code"
    extra_cost: ClassVar[str] = "a longer prompt"
    answer_changes: ClassVar[int] = 1

    placement: Literal["between", "after", "before"] = "between"
    """`between`: query + shield + query, the authors' code for LLaVA and MiniGPT-4; `after`: query + shield;
    `before`: shield + query, as their paper words it."""

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Undefended answers to shielded requests."""
        shielded = [
            replace(request, chat=request.chat.with_request(self.shielded(request.chat.request)))
            for request in requests
        ]
        return undefended(tools, shielded, settings)

    def shielded(self, query: str) -> str:
        """The request's text with the shield in place; nothing stands between the pieces.

        FigStep's text is asked as the authors ask it, with a line break at its end.
        """
        shield, figstep = prompt("adashield_s"), prompt("adashield_figstep_request")
        query = figstep if query == figstep.removesuffix("\n") else query
        return {"between": query + shield + query, "after": query + shield, "before": shield + query}[
            self.placement
        ]
