"""Records the activations that a defense leaves after its edits, without any change to the defense.

A defense calibrates by handing edits to `backbone.generate`. The recorder wraps the backbone:
it runs that prefill under the same edits and keeps the activations after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from torch import Tensor

from shiftdc_eval.backbones import Backbone, Chat, Generated, GenerationSettings
from shiftdc_eval.backbones.interface import EditBuilder, Wrapper
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.defenses import Answer, Request, Tools
from shiftdc_eval.steering import PREFILL, Scope


class Recorder(Wrapper):
    """A backbone that keeps the activations of the last edited prefill.

    Args:
        backbone: the model; everything but edited generation is its own.
        answers: False leaves out the decoding of edited answers.
    """

    def __init__(self, backbone: Backbone, *, answers: bool) -> None:
        super().__init__(backbone)
        self._answers = answers
        self.activations: Tensor | None = None
        """`[batch, layers, hidden]` after the edits."""

    def generate(
        self,
        chats: Sequence[Chat],
        settings: GenerationSettings,
        *,
        edit: EditBuilder | None = None,
        scope: Scope = PREFILL,
        **rest: Any,
    ) -> list[Generated]:
        """The backbone's answers; with edits their prefill is recorded first."""
        if edit is None:
            return self.inner.generate(chats, settings, **rest)
        self.activations = self.inner.last_token_activations(chats, edit=edit, scope=scope)
        if not self._answers:
            return [Generated("", 0, 0, ()) for _ in chats]
        return self.inner.generate(chats, settings, edit=edit, scope=scope, **rest)


def calibrated(
    tools: Tools, defense: Any, chats: Sequence[Chat], settings: GenerationSettings, *, answers: bool
) -> tuple[Tensor, list[Answer]]:
    """Activations after a defense's edits, `[batch, layers, hidden]`, and its answers.

    Args:
        tools: backbone, captions, direction.
        defense: one that edits activations during prefill.
        chats: chats with images.
        settings: how the answers are decoded.
        answers: False gives empty answers.

    Raises:
        ModelError: the defense edits nothing.
    """
    recorder = Recorder(tools.backbone, answers=answers)
    stand_in = Tools(cast(Backbone, recorder), tools.captions, tools.direction)
    given = defense.answer(stand_in, [Request(chat) for chat in chats], settings)
    if recorder.activations is None:
        raise ModelError(f"defense {defense.name} edits no activation: there is nothing to record")
    return recorder.activations, given
