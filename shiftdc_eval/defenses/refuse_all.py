"""A refusal to everything, which no model is asked for: the corner of the plot of safety against utility."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from shiftdc_eval.backbones import GenerationSettings
from shiftdc_eval.backbones.interface import Capability
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools
from shiftdc_eval.defenses.prompts import prompt


class RefuseAll(Settings):
    """A control: keyword judges find a refusal in every answer."""

    name: ClassVar[str] = "refuse_all"
    source: ClassVar[str] = "control: a template refusal"
    status = "control"
    extra_cost: ClassVar[str] = "the model is not asked"
    needs: ClassVar[frozenset[Capability]] = frozenset()
    asks_model: ClassVar[bool] = False

    @property
    def control(self) -> str:
        """No defense: it looks at nothing."""
        return "a refusal to everything"

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """The same refusal, of no tokens: the model generates none."""
        return [Answer(prompt("template_refusal"), 0, 0) for _ in requests]
