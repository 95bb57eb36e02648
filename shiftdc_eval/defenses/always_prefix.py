"""Every answer begins with ETA's words, whatever is asked: the cheapest "shallow alignment" (arXiv 2410.06625)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from shiftdc_eval.backbones import GenerationSettings
from shiftdc_eval.backbones.interface import Capability
from shiftdc_eval.defenses.base import BEGUN, Answer, Request, Settings, Tools
from shiftdc_eval.defenses.none import undefended
from shiftdc_eval.defenses.prompts import prompt


class AlwaysPrefix(Settings):
    """A control: nothing decides where the words are needed. Requests without an image get them too."""

    name: ClassVar[str] = "always_prefix"
    source: ClassVar[str] = "control: the prefix of ETA (arXiv 2410.06625) alone"
    status = "control"
    extra_cost: ClassVar[str] = "a prompt longer by four words"
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate", "begin"})

    @property
    def control(self) -> str:
        """No defense: it looks at nothing."""
        return "every answer is begun alike"

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Answers that go on from the prefix."""
        return prefixed(tools, requests, settings)


def prefixed(tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
    """Answers that begin with ETA's prefix, which their text holds; `tokens_out` leaves it out."""
    words = prompt("eta_prefix")
    begun = [replace(request, chat=request.chat.with_answer_begun(words)) for request in requests]
    return [answer.with_extra(**{BEGUN: words}) for answer in undefended(tools, begun, settings)]
