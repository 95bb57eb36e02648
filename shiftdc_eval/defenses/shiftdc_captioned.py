"""ShiftDC with another caption than the model's own: an ablation of the caption's influence.

`caption=none`: the text-only counterpart is the request alone. `caption=reference`: what the data says that the
image shows (FigStep: the words drawn in it), where the data says so. No deployed model has such a caption, so its
cells are marked as controls and never rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from shiftdc_eval.backbones import Chat, GenerationSettings
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses.base import Answer, Request, Tools, steered
from shiftdc_eval.defenses.passes import Pass
from shiftdc_eval.defenses.shiftdc import ShiftDC, counterpart


class ShiftDCCaptioned(ShiftDC):
    """ShiftDC against a text-only counterpart without a caption, or with the data's own."""

    name: ClassVar[str] = "shiftdc_captioned"
    source: ClassVar[str] = "ablation of shiftdc: whose caption"
    status = "ours"
    extra_cost: ClassVar[str] = "as shiftdc, without the caption"
    shares_prefixes: ClassVar[bool] = False

    caption: Literal["none", "reference"] = "none"
    """Whose caption stands in the image's place."""

    @model_validator(mode="after")
    def _is_no_published_code(self) -> Self:
        if self.variant == "official":
            raise ValueError("variant=official captions the image itself; use online or paper")
        return self

    @property
    def control(self) -> str:
        """Never a defense: the caption is not the model's own."""
        return "no caption" if self.caption == "none" else "the data's own caption"

    def extra_passes(self) -> list[Pass]:
        """As ShiftDC's, without the caption."""
        return self._calibration_passes(self.caption)

    def _calibrated(
        self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings
    ) -> list[Answer]:
        chats = [request.chat for request in requests]
        counterparts = [self.text_only(request) for request in requests]
        answers = steered(tools, requests, settings, edit=self._edits(tools, chats, counterparts))
        captions = [request.image_text if self.caption == "reference" else None for request in requests]
        return [answer.with_extra(caption=text) for answer, text in zip(answers, captions, strict=True)]

    def text_only(self, request: Request) -> Chat:
        """The text-only counterpart of a request.

        Raises:
            ConfigError: the data does not say what the image shows.
        """
        if self.caption == "none":
            return request.chat.without_images()
        if not request.image_text:
            raise ConfigError(
                f"caption=reference: the data does not say what the image of {request.chat.request!r:.60} shows; "
                "tasks that do are the toy tasks, figstep, and mm_safetybench_* from the authors' files"
            )
        return counterpart(request.chat, request.image_text)
