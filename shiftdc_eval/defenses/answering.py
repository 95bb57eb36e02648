"""Answers of a defense, one a request, also where some of the requests cannot be answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shiftdc_eval.backbones import GenerationSettings
from shiftdc_eval.core.errors import ConfigError, ItemError
from shiftdc_eval.defenses.base import OVER_CONTEXT, Answer, Defense, Request, Tools


def answered(
    defense: Defense, tools: Tools, requests: Sequence[Request], settings: GenerationSettings
) -> list[Answer]:
    """One answer a request, in order.

    A batch with a request that cannot be answered is halved until that request stands alone: its answer has the
    reason in `unanswered`, and the others are answered.

    Raises:
        ConfigError: the defense gives more or fewer answers than it was asked for.
    """
    try:
        answers = defense.answer(tools, requests, settings)
    except ItemError as error:
        if len(requests) == 1:
            note = f"no answer ({error.kind})"
            return [Answer("", 0, 0, (note,), unanswered=str(error), blame=error.blame)]
        half = len(requests) // 2
        parts = (requests[:half], requests[half:])
        return [answer for part in parts for answer in answered(defense, tools, part, settings)]
    if len(answers) != len(requests):
        raise ConfigError(f"defense={defense.name} gave {len(answers)} answers for {len(requests)} requests")
    most = tools.backbone.context
    return [
        replace(answer, notes=(*answer.notes, OVER_CONTEXT)) if most and answer.tokens_in > most else answer
        for answer in answers
    ]
