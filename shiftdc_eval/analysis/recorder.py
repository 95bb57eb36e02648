"""Records the activations that a defense leaves after its edits, without any change to the defense.

A defense calibrates by handing edits to `backbone.generate`. The recorder stands in the backbone's place: it
runs that prefill under the same edits and keeps the activations after them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from shiftdc_eval.backbones import Backbone, Chat, Generated, GenerationSettings
from shiftdc_eval.backbones.backbone import EditBuilder
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.defenses import Answer, Request, Tools
from shiftdc_eval.steering import PREFILL, Scope, edit_tokens, record_last_token


class Recorder:
    """A backbone that keeps the activations of the last edited prefill.

    Args:
        backbone: the model; everything but edited generation is its own.
        answers: False leaves out the decoding of edited answers.
    """

    def __init__(self, backbone: Backbone, *, answers: bool) -> None:
        self._backbone = backbone
        self._answers = answers
        self.activations: Tensor | None = None
        """`[batch, layers, hidden]` after the edits."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

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
            return self._backbone.generate(chats, settings, **rest)
        encoded = self._backbone.encode(chats)
        layers, position = self._backbone.layers, encoded.width - 1
        where = position if scope.positions == "last" else slice(None)
        # registered in this order, so that what is recorded is what the edit has left
        with (
            torch.inference_mode(),
            edit_tokens(layers, edit(list(range(len(chats)))), where, site=scope.site),
            record_last_token(layers, position) as seen,
        ):
            self._backbone.forward(encoded)
            self.activations = torch.stack(
                [seen[layer].to(self._backbone.device) for layer in sorted(seen)], dim=1
            )
        if not self._answers:
            return [Generated("", length, 0, ()) for length in encoded.lengths]
        return self._backbone.generate(chats, settings, edit=edit, scope=scope, **rest)


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
