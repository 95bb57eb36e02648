"""The limit of what one judge may spend: the worst case of a request is set aside before it is made."""

from __future__ import annotations

import json
from dataclasses import dataclass

from shiftdc_eval.judges.chat_model import Message, Spent
from shiftdc_eval.judges.spending import Price

_CHARACTERS_PER_TOKEN = 2
"""Low on purpose: a reservation must not be smaller than what the call turns out to cost."""
_TOKENS_PER_IMAGE = 26_000
"""Flat: what an image costs follows its size in pixels, not its length as base64. Above what the dearest model
of our table takes for 1024 x 1024 pixels (gpt-4o-mini: 2,833 + 4 x 5,667, OpenAI's vision guide)."""


def prompt_size(messages: list[Message]) -> tuple[int, int]:
    """Characters of a chat without its images, and the number of images."""
    texts: list[object] = []
    images = 0
    for message in messages:
        content = message["content"]
        for part in [content] if isinstance(content, str) else content:
            if isinstance(part, dict) and part.get("type") == "image_url":
                images += 1
            else:
                texts.append(part)
    return len(json.dumps(texts)) + 30 * len(messages), images


@dataclass
class Budget:
    """Money that may be spent, and what is left of it."""

    limit: float
    """USD."""
    price: Price
    spent: float = 0.0
    """USD, as far as replies came with token counts."""
    reserved: float = 0.0
    """USD set aside for requests under way."""

    def reserve(self, messages: list[Message], max_tokens: int) -> float | None:
        """Set money aside for a request about to be made; None when the limit does not allow it."""
        characters, images = prompt_size(messages)
        tokens = characters // _CHARACTERS_PER_TOKEN + 50 + images * _TOKENS_PER_IMAGE
        amount = self.price.of(tokens, max_tokens)
        if self.spent + self.reserved + amount > self.limit:
            return None
        self.reserved += amount
        return amount

    @property
    def waiting(self) -> bool:
        """True while requests under way may still turn out cheaper than what was set aside for them."""
        return self.reserved > 1e-12

    def settle(self, reserved: float, spent: Spent) -> None:
        """A request is over: give back what was set aside for it, and book what it took."""
        self.reserved -= reserved
        self.spent += self.price.of(spent.tokens_in or 0, spent.tokens_out or 0)
