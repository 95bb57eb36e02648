"""Chats as the model's inputs: rendered, tokenized, left-padded."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor

from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.families import ENCODERS, encode_by_template


@dataclass(frozen=True)
class Encoded:
    """A left-padded batch."""

    inputs: dict[str, Tensor]
    """What the model's forward takes."""

    @property
    def width(self) -> int:
        """Padded prompt length; the last prompt token of every row is at `width - 1`."""
        return int(self.inputs["input_ids"].shape[1])

    @property
    def lengths(self) -> list[int]:
        """Prompt tokens of each row, padding excluded."""
        return [int(length) for length in self.inputs["attention_mask"].sum(-1).tolist()]

    def parts(self, tokens: int) -> Iterator[Encoded]:
        """The batch in parts of at most so many tokens (and at least one row); only for rows without images."""
        rows = max(1, tokens // self.width)
        for start in range(0, len(self.inputs["input_ids"]), rows):
            yield Encoded({name: value[start : start + rows] for name, value in self.inputs.items()})

    def to(self, device: torch.device) -> Encoded:
        """The same batch on a device."""
        return Encoded({name: value.to(device) for name, value in self.inputs.items()})


ENCODING_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    TemplateError,
)
"""What processors raise for chats that they cannot take."""


def encode_chats(processor: Any, model_type: str, chats: Sequence[Chat], control: Sequence[str]) -> Encoded:
    """Inputs on the CPU of chats that either all have images or all have none.

    Args:
        processor: the model's own.
        model_type: chooses the family's own encoder where it has one.
        chats: what to encode.
        control: special tokens; where a chat's text spells them out they are encoded as plain text.
    """
    encode = ENCODERS.get(model_type, encode_by_template)
    features = encode(processor, [spelled_out(chat, control) for chat in chats])
    return Encoded({key: value for key, value in features.items() if torch.is_tensor(value)})


PROBE = """probe of <the> "chat" template's & text"""


def template_problem(processor: Any, model_type: str, *, system: bool = False) -> str:
    """What is wrong with how a model's chat template renders a request; empty where nothing is.

    Args:
        processor: the model's own.
        model_type: families whose prompts are not a template's pass.
        system: look at the system prompt instead.
    """
    if model_type in ENCODERS:
        return ""
    image = Image.new("RGB", (8, 8))
    chats = [
        Chat.ask("request", images, system=PROBE) if system else Chat.ask(PROBE, images)
        for images in ([], [image])
    ]
    try:
        rendered = [
            str(processor.apply_chat_template(chat.messages(), tokenize=False, add_generation_prompt=True))
            for chat in chats
        ]
    except ENCODING_ERRORS as error:
        said = str(error).strip().splitlines()
        return f"its chat template cannot render {_kind(system)}: {said[0] if said else type(error).__name__}"
    for text, beside in zip(rendered, ("", " where there is an image"), strict=True):
        if any(mark in text for mark in ("{'type':", '{"type":')):
            return (
                f"its chat template prints {_kind(system)} as a list of parts, in Python's notation, and not as "
                f"text{beside}"
            )
        if PROBE not in text:
            return f"its chat template leaves out or changes {_kind(system)}{beside}"
    return "its chat template leaves out images" if rendered[0] == rendered[1] else ""


def _kind(system: bool) -> str:
    return "the system prompt" if system else "the request"


def control_tokens(tokenizer: Any, processor: Any) -> list[str]:
    """Special tokens and the processor's image tokens, longest first."""
    names = ("image_token", "video_token", "boi_token", "eoi_token", "fake_image_token")
    own = [getattr(processor, name, None) for name in names]
    added = [str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special]
    found = {*added, *tokenizer.all_special_tokens, *(token for token in own if isinstance(token, str))}
    return sorted((token for token in found if len(token) > 1), key=lambda token: (-len(token), token))


def spelled_out(chat: Chat, control: Sequence[str]) -> Chat:
    """The chat with a space inserted after the first character of every control token in its texts.

    A request may speak of `<image>` without showing an image: as a token it would ask for one that is not
    there and fail the whole batch, so it is encoded as plain text.
    """
    texts = [chat.begun, *(part for turn in chat.turns for part in turn.parts if isinstance(part, str))]
    if not any(token in text for text in texts for token in control):
        return chat
    turns = (
        replace(
            turn, parts=tuple(plain(part, control) if isinstance(part, str) else part for part in turn.parts)
        )
        for turn in chat.turns
    )
    return Chat(tuple(turns), plain(chat.begun, control))


def plain(text: str, control: Sequence[str]) -> str:
    """A text with a space inserted into each control token."""
    if not control:
        return text
    return re.sub("|".join(map(re.escape, control)), lambda found: f"{found[0][0]} {found[0][1:]}", text)


def prefill_kwargs(model: Any, encoded: Encoded) -> dict[str, Any]:
    """Everything but the token ids that a prefill takes, with the positions that `generate` would use.

    Positions are given explicitly because a model that infers them counts padding, and one with
    multimodal positions (Qwen2-VL and later) keeps the offset of the last batch as state, which another
    prompt run in between would change.
    """
    kwargs = {name: value for name, value in encoded.inputs.items() if name != "input_ids"}
    if "position_ids" in inspect.signature(model.forward).parameters:
        ids = encoded.inputs["input_ids"]
        kwargs["position_ids"] = model._prepare_position_ids_for_generation(ids, {**kwargs, "input_ids": ids})
    return kwargs
