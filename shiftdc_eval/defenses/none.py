"""No defense: the backbone answers (called Direct in the paper)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from shiftdc_eval.backbones import GenerationSettings
from shiftdc_eval.defenses.base import NOT_APPLICABLE, Answer, Request, Settings, Tools, split_by_image
from shiftdc_eval.defenses.caption_store import clock


def undefended(
    tools: Tools, requests: Sequence[Request], settings: GenerationSettings, *notes: str
) -> list[Answer]:
    """The backbone's own answers."""
    chats = [request.chat for request in requests]
    generated = tools.backbone.generate(chats, settings, seeds=[request.seed for request in requests])
    return [Answer.of(answer, *notes) for answer in generated]


def images_only(
    tools: Tools,
    requests: Sequence[Request],
    settings: GenerationSettings,
    answer: Callable[[Tools, list[Request], GenerationSettings], list[Answer]],
) -> list[Answer]:
    """Answers of a defense against images; requests without one are answered undefended and marked."""
    return split_by_image(
        requests,
        with_image=lambda shown: answer(tools, shown, settings),
        without=lambda plain: undefended(tools, plain, settings, NOT_APPLICABLE),
    )


def first_answers(tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
    """Undefended answers; greedy ones are shared with `none` on the same model and task."""
    if settings.do_sample:
        return undefended(tools, requests, settings)
    chats = [request.chat for request in requests]
    return [Answer.of(answer) for answer in tools.captions.answers(tools.backbone, chats, settings)]


class NoDefense(Settings):
    """No defense."""

    name: ClassVar[str] = "none"
    source: ClassVar[str] = "the backbone alone (Direct in arXiv 2502.13095)"

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """The backbone's own answers; greedy ones are kept for defenses that start from them."""
        chats = [request.chat for request in requests]
        begun = clock(tools.backbone)
        generated = tools.backbone.generate(chats, settings, seeds=[request.seed for request in requests])
        if not settings.do_sample:
            tools.captions.keep(tools.backbone, chats, settings, generated, clock(tools.backbone) - begun)
        return [Answer.of(answer) for answer in generated]
