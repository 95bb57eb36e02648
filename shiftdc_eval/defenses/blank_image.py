"""The same request with a grey image, or without any: what an image as such does to refusals (arXiv 2609.26174)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from shiftdc_eval.backbones import Chat, GenerationSettings
from shiftdc_eval.core.images import plain_grey
from shiftdc_eval.defenses.base import NOT_APPLICABLE, Answer, Request, Settings, Tools, split_by_image
from shiftdc_eval.defenses.none import undefended


class BlankImage(Settings):
    """A control: the model cannot see what it is asked about."""

    name: ClassVar[str] = "blank_image"
    source: ClassVar[str] = "control of arXiv 2609.26174: the image is blank"
    status = "control"

    image: Literal["grey", "none"] = "grey"
    """What stands in each image's place: a plain grey image of its size, or nothing."""

    @property
    def control(self) -> str:
        """No defense: the request is another one."""
        return "the image is blank" if self.image == "grey" else "the image is left out"

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Undefended answers to what is left of the requests."""
        return split_by_image(
            requests,
            with_image=lambda shown: undefended(
                tools, [replace(request, chat=self._blank(request.chat)) for request in shown], settings
            ),
            without=lambda plain: undefended(tools, plain, settings, NOT_APPLICABLE),
        )

    def _blank(self, chat: Chat) -> Chat:
        if self.image == "none":
            return chat.without_images()
        return chat.with_images([plain_grey(image.copy) for image in chat.images])
