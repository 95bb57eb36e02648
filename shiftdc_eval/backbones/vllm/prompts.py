"""Chats as vLLM takes them: token ids, one image token an image, and the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shiftdc_eval.backbones.begun import prompts
from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.encoding import spelled_out


def prompt_ids(
    processor: Any, tokenizer: Any, chats: Sequence[Chat], control: Sequence[str]
) -> list[list[int]]:
    """Token ids of rendered chats before the processor makes room for images, as its own call would have them."""
    texts: list[str] = processor.apply_chat_template(
        **prompts(processor, [spelled_out(chat, control) for chat in chats]), tokenize=False
    )
    bos = tokenizer.bos_token
    begun = bool(bos) and all(text.startswith(bos) for text in texts)
    ids: list[list[int]] = tokenizer(texts, **({"add_special_tokens": False} if begun else {}))["input_ids"]
    return ids


def engine_prompt(ids: Sequence[int], chat: Chat, salt: str | None) -> dict[str, Any]:
    """A prompt of vLLM."""
    return {
        "prompt_token_ids": list(ids),
        **({"multi_modal_data": {"image": list(chat.images)}} if chat.images else {}),
        **({"cache_salt": salt} if salt else {}),
    }
