"""ECSO: answer, let the model judge its own answer, and if it finds it harmful answer again from a caption.

The authors' algorithm for safety benchmarks (gyhdog99/ECSO 3878522; arXiv 2403.09572); their utility
scripts run another one. `ecso_caption` is what arXiv 2502.13095 compares with under the same name: no
self-check, every image replaced by its caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from pydantic import Field

from shiftdc_eval.backbones import Chat, GenerationSettings
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools
from shiftdc_eval.defenses.none import first_answers, images_only
from shiftdc_eval.defenses.passes import UNDEFENDED, Pass
from shiftdc_eval.defenses.prompts import prompt

SHOWN_CHARACTERS = 1927
"""Characters of the first answer, stripped at its ends, that the self-check is shown (the authors' cut)."""
TELL_MAX_NEW_TOKENS = 1024
"""Length limit of the self-check's reply (the authors' setting; only a bare yes counts)."""


class Ecso(Settings):
    """ECSO with its self-check."""

    name: ClassVar[str] = "ecso"
    source: ClassVar[str] = "arXiv 2403.09572; gyhdog99/ECSO 3878522"
    status = "code"
    shares_prefixes: ClassVar[bool] = True
    extra_cost: ClassVar[str] = "self-check; when it says yes: caption and a second answer"
    answer_changes: ClassVar[int] = 1

    caption_max_new_tokens: int = Field(default=1024, ge=1)
    """Length limit of a caption."""
    tell_max_new_tokens: int = Field(default=TELL_MAX_NEW_TOKENS, ge=1)
    """Length limit of the self-check's reply."""

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """First answers where the self-check passes, answers from a caption where it does not."""
        return images_only(tools, requests, settings, self._checked)

    def extra_passes(self) -> list[Pass]:
        """First answer and self-check; the caption at most: an answer that passes the check needs none."""
        return [UNDEFENDED, Pass("answers"), Pass("captions", ("ecso", self.caption_max_new_tokens))]

    def _checked(
        self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings
    ) -> list[Answer]:
        first = first_answers(tools, requests, settings)
        asked = [
            request.chat.with_request(
                prompt(
                    "ecso_tell", query=request.chat.request, response=answer.text.strip()[:SHOWN_CHARACTERS]
                )
            )
            for request, answer in zip(requests, first, strict=True)
        ]
        replies = tools.backbone.generate(asked, settings.with_limit(self.tell_max_new_tokens))
        unsafe = [row for row, reply in enumerate(replies) if says_yes(reply.text)]
        again = from_captions(tools, [requests[row] for row in unsafe], settings, self.caption_max_new_tokens)
        for row, answer in zip(unsafe, again, strict=True):
            first[row] = answer.with_extra(first_answer=first[row].text)
        return first


class EcsoCaption(Settings):
    """Every image replaced by its caption, no self-check."""

    name: ClassVar[str] = "ecso_caption"
    source: ClassVar[str] = "as compared with in arXiv 2502.13095"
    status = "text"
    extra_cost: ClassVar[str] = "caption (the answer itself needs no image)"

    caption_max_new_tokens: int = Field(default=1024, ge=1)
    """Length limit of a caption."""

    def extra_passes(self) -> list[Pass]:
        """The caption."""
        return [Pass("captions", ("ecso", self.caption_max_new_tokens))]

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Answers from captions."""
        captioned = partial(from_captions, caption_max_new_tokens=self.caption_max_new_tokens)
        return images_only(tools, requests, settings, captioned)


def says_yes(reply: str) -> bool:
    """Whether a self-check's reply counts as "harmful": a bare yes, as in the authors' code."""
    return reply.strip().lower() in {"yes", "yes."}


def from_captions(
    tools: Tools, requests: Sequence[Request], settings: GenerationSettings, caption_max_new_tokens: int
) -> list[Answer]:
    """Answers from a request-conditioned caption, without the image."""
    if not requests:
        return []
    chats = [request.chat for request in requests]
    asked = [chat.with_request(prompt("ecso_caption", query=chat.request)) for chat in chats]
    captions = tools.captions.describe(tools.backbone, asked, settings.with_limit(caption_max_new_tokens))
    blind: list[Chat] = [
        chat.without_images().with_request(prompt("ecso_answer", caption=caption, question=chat.request))
        for chat, caption in zip(chats, captions, strict=True)
    ]
    generated = tools.backbone.generate(blind, settings, seeds=[request.seed for request in requests])
    return [Answer.of(answer, caption=caption) for answer, caption in zip(generated, captions, strict=True)]
