"""Defenses in Python, without lmms-eval: load a model, fit its direction, answer chats, look at the shift.

The objects are those of the lmms-eval adapter: backbone, directions, caption store and defenses. Captions and
directions are kept in the same caches, so what one has made, the other finds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, load_backbone
from shiftdc_eval.backbones.own_model import own_backbone
from shiftdc_eval.backbones.server.backbone import as_server
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.images import load_image
from shiftdc_eval.core.model_spec import ModelArguments
from shiftdc_eval.core.paths import cache_dir
from shiftdc_eval.core.validation import nearest, validated
from shiftdc_eval.defenses.answering import answered
from shiftdc_eval.defenses.arguments import chosen, require, split
from shiftdc_eval.defenses.base import Answer, Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.defenses.directions import Directions
from shiftdc_eval.defenses.in_flight import answered_one_by_one
from shiftdc_eval.defenses.shiftdc import ShiftDC, counterpart
from shiftdc_eval.steering import SafetyDirection, safety_coordinate

GENERATION = tuple(field.name for field in dataclasses.fields(GenerationSettings))


class DefendedModel:
    """A model that answers chats under any defense.

    Args:
        backbone: the model.
        direction: safety direction file; None: fitted on first use, and cached.
        contrast: contrast set to fit it on; None: the one that comes with the model, else the built-in one.
        batch_size: chats, or texts of the fit, that go through the model together.

    Raises:
        ConfigError: a batch size that is no number of chats.
        DirectionError: no direction in the file, or one that was made for another model.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        direction: str | Path | None = None,
        contrast: str | Path | None = None,
        batch_size: int = 8,
    ) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ConfigError(f"batch_size={batch_size!r} is not a number of chats; give at least 1")
        self.backbone = backbone
        self.batch_size = batch_size
        self._contrast = contrast
        directions = Directions(
            backbone,
            path=Path(direction) if direction else None,
            contrast=Path(contrast) if contrast else None,
            batch_size=batch_size,
        )
        self.tools = Tools(backbone, CaptionStore(cache_dir() / "captions.sqlite"), directions)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.backbone.name}@{self.backbone.revision[:12]})"

    def direction(self) -> SafetyDirection:
        """The safety direction: the given file's, else from the cache, else fitted now."""
        return self.tools.direction()

    def with_direction(self, path: str | Path) -> DefendedModel:
        """The same model with the direction of a file.

        Raises:
            DirectionError: no direction in the file, or one that was made for another model.
        """
        return DefendedModel(
            self.backbone, direction=path, contrast=self._contrast, batch_size=self.batch_size
        )

    def answer(
        self, chats: Sequence[Chat | Request], *, defense: str = "none", seed: int = 0, **given: Any
    ) -> list[Answer]:
        """One answer a chat, in order; a chat that cannot be answered has the reason in `Answer.unanswered`.

        Args:
            chats: what is asked, with and without images; as a `Request` with a sampling seed of its own.
            defense: name of the defense, as in `defense=NAME`.
            seed: seed of sampling.
            given: settings of the defense (`alpha=0.5`), of a gate in front of it (`gate="hidden_detect"`) and of
                decoding (`max_new_tokens=64`, see `GenerationSettings`; greedy by default).

        Raises:
            ConfigError: an unknown defense or argument, or a value that is wrong.
        """
        for at, chat in enumerate([chats] if isinstance(chats, str | Chat | Request) else chats):
            if isinstance(chats, str | Chat | Request) or not isinstance(chat, Chat | Request):
                raise ConfigError(
                    f"chat {at} is a {type(chat).__name__}; give a list of chats: [Chat.ask(text, [image])]"
                )
        own, theirs = split({"defense": defense, **given}, GENERATION, what="argument")
        defending = chosen(own.pop("defense"), theirs, what="argument")
        settings = GenerationSettings(**own)
        require(defending, self.backbone.capabilities, self.backbone.engine, use_cache=settings.use_cache)
        defending.resolved(self.backbone)  # settings that do not fit this model end here
        requests = [
            chat if isinstance(chat, Request) else Request(_rgb(chat), f"{seed}:{at}")
            for at, chat in enumerate(chats)
        ]
        if server := as_server(self.backbone):
            makers = [partial(_same, request) for request in requests]
            found = answered_one_by_one(defending, self.tools, server, makers, settings)
            return [one.answer for one in sorted(found, key=lambda outcome: outcome.number)]
        return [
            answer
            for start in range(0, len(requests), self.batch_size)
            for answer in answered(defending, self.tools, requests[start : start + self.batch_size], settings)
        ]

    def shift(self, chats: Sequence[Chat], *, caption_max_new_tokens: int | None = None) -> Tensor:
        """How far each chat's images move the model towards "safe": the modality shift along the direction.

        The shift is the last prompt token's activation with the images minus the one with the model's own
        caption in their place (Eq. 5); 1 is the distance from unsafe to safe texts, positive is towards "safe".

        Args:
            chats: chats with images.
            caption_max_new_tokens: length limit of a caption; `shiftdc`'s own when None.

        Returns:
            `[chats, layers]`, float32, on the CPU: one coordinate at the output of each decoder layer.

        Raises:
            ConfigError: a chat without an image, which has no shift.
        """
        limit = {} if caption_max_new_tokens is None else {"caption_max_new_tokens": caption_max_new_tokens}
        defense = validated(ShiftDC, limit, what="argument")
        vectors = self.direction().vectors
        shown = [_rgb(chat) for chat in chats]
        for at, chat in enumerate(shown):
            if not chat.images:
                raise ConfigError(f"chat {at} has no image, so there is no modality shift: leave it out")
        found = [torch.empty(0, len(vectors))]
        for start in range(0, len(shown), self.batch_size):
            batch = shown[start : start + self.batch_size]
            captions = defense.captions(self.tools, batch, GenerationSettings())
            texts = [counterpart(chat, caption) for chat, caption in zip(batch, captions, strict=True)]
            image, text = (self.backbone.last_token_activations(one).float().cpu() for one in (batch, texts))
            found.append(safety_coordinate(image - text, vectors))
        return torch.cat(found)


def _same(request: Request) -> Request:
    return request


def load(
    pretrained: str | Path,
    *,
    direction: str | Path | None = None,
    contrast: str | Path | None = None,
    batch_size: int = 8,
    **options: Any,
) -> DefendedModel:
    """Load a model.

    Args:
        pretrained: hub id, local folder, or a bundled model (`toy`, `smol`).
        direction, contrast, batch_size: see `DefendedModel`.
        options: further model arguments: `revision`, `dtype`, `device`, `device_map` ... (`ModelArguments`).

    Raises:
        ConfigError: an argument that is unknown or wrong.
        ModelError: the model cannot be loaded.
        DirectionError: the given direction was made for another model.
    """
    known = sorted(ModelArguments.model_fields)
    for name in options:
        if name not in known:
            raise ConfigError(
                f"unknown model argument {name}{nearest(name, known)}; load() knows {', '.join(known)}"
            )
    arguments = validated(ModelArguments, {"pretrained": str(pretrained), **options}, what="model argument")
    return DefendedModel(
        load_backbone(arguments), direction=direction, contrast=contrast, batch_size=batch_size
    )


def wrap(
    model: Any,
    processor: Any,
    *,
    name: str | None = None,
    revision: str | None = None,
    direction: str | Path | None = None,
    contrast: str | Path | None = None,
    batch_size: int = 8,
) -> DefendedModel:
    """Use a transformers model that is loaded already.

    Args:
        model, processor, name, revision: see `own_backbone`.
        direction, contrast, batch_size: see `DefendedModel`.

    Raises:
        ModelError: the model is not of a supported kind.
        DirectionError: the given direction was made for another model.
    """
    backbone = own_backbone(model, processor, name=name, revision=revision)
    return DefendedModel(backbone, direction=direction, contrast=contrast, batch_size=batch_size)


def _rgb(chat: Chat) -> Chat:
    """The chat with images as processors take them, and as the adapter gives them."""
    return chat.with_images(
        [
            load_image(image, f"image {number} of the chat")
            for number, image in enumerate(chat.images, start=1)
        ]
    )
