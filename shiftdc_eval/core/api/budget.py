"""A spending limit: the worst-case cost of a request is reserved before it is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass

from shiftdc_eval.core.api.chat_model import Message, Spent
from shiftdc_eval.core.api.prices import Price

BUDGET_SPENT = "the budget of"
"""How the reason of an item begins that there was no money for."""
_CHARACTERS_PER_TOKEN = 2
"""Deliberately low: a reservation must never be smaller than the call's actual cost."""
_TOKENS_PER_IMAGE = 26_000
"""A flat rate: an image costs by its size in pixels, not by its length as base64. Above the most that a model of our
price table counts for 1024 x 1024 pixels (gpt-4o-mini: 2,833 + 4 x 5,667, OpenAI's vision guide)."""


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
    """A spending limit, the money spent and the money reserved."""

    limit: float
    """USD."""
    price: Price
    spent: float = 0.0
    """USD, counted from replies that report their tokens."""
    reserved: float = 0.0
    """USD reserved for requests in flight."""

    def reserve(self, messages: list[Message], max_tokens: int) -> float | None:
        """Reserve money for a request; None when the limit does not allow it."""
        characters, images = prompt_size(messages)
        tokens = characters // _CHARACTERS_PER_TOKEN + 50 + images * _TOKENS_PER_IMAGE
        amount = self.price.of(tokens, max_tokens)
        if self.spent + self.reserved + amount > self.limit:
            return None
        self.reserved += amount
        return amount

    @property
    def waiting(self) -> bool:
        """True while requests in flight may still cost less than was reserved for them."""
        return self.reserved > 1e-12

    def settle(self, reserved: float, spent: Spent) -> None:
        """After a request: release its reservation and book its actual cost."""
        self.reserved -= reserved
        self.spent += self.price.of(spent.tokens_in or 0, spent.tokens_out or 0)
