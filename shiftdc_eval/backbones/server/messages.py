"""Chats as a server takes them, and how an answer is to be decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from shiftdc_eval.backbones.chat import Chat, Turn
from shiftdc_eval.backbones.generation import GenerationSettings
from shiftdc_eval.core.api.chat_model import Message, Options
from shiftdc_eval.core.images import data_url


def messages_of(chat: Chat) -> list[Message]:
    """A chat in OpenAI's form: images as data URLs, in the places where they stand."""
    return [{"role": turn.role, "content": _content(turn)} for turn in chat.turns]


def _content(turn: Turn) -> str | list[dict[str, Any]]:
    if len(turn.parts) == 1 and isinstance(turn.parts[0], str):
        return turn.parts[0]
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": "image_url", "image_url": {"url": data_url(part)}}
        for part in turn.parts
    ]


def any_as_jpeg(messages: Sequence[Message]) -> bool:
    """Whether an image goes as JPEG, because its PNG is larger than servers take."""
    parts = [
        part for message in messages if isinstance(message["content"], list) for part in message["content"]
    ]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return any(url.startswith("data:image/jpeg") for url in urls)


def options_of(settings: GenerationSettings, seed: str | None) -> Options:
    """The options of one answer; greedy decoding is temperature 0. Stop strings are cut off here, not there.

    Args:
        settings: how the answer is decoded.
        seed: fixes its sampling; sent as 31 bits of its sha256.
    """
    if not settings.do_sample:
        return Options(settings.max_new_tokens, temperature=0.0, cut_reply_counts=True, is_answer=True)
    return Options(
        settings.max_new_tokens,
        temperature=settings.temperature,
        cut_reply_counts=True,
        top_p=settings.top_p if settings.top_p < 1 else None,
        top_k=settings.top_k or None,
        seed=seed_number(seed) if seed is not None else None,
        is_answer=True,
    )


def seed_number(seed: str) -> int:
    """31 bits of a seed's sha256: servers take a signed 32-bit number."""
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") >> 1
