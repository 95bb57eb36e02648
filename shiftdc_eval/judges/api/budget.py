"""What judging costs: tokens, money where the price is known, and the limit that stops it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.judges.rubric import Message

PRICES_VARIABLE = "SHIFTDC_PRICES"
TABLE = Path(__file__).parents[1] / "prices.yaml"
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


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    input: float
    output: float

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """USD for so many tokens."""
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


def price_of(host: str, model: str) -> Price | None:
    """The price of a model at a host, from the table that `SHIFTDC_PRICES` names or from ours.

    Returns:
        None when the table has no such host or model: an unknown price is not zero.

    Raises:
        ConfigError: the table cannot be read.
    """
    path = Path(os.environ.get(PRICES_VARIABLE) or TABLE)
    try:
        table: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        row = (table.get(host) or {}).get(model)
        return None if row is None else Price(float(row["input"]), float(row["output"]))
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"price table {path} ({PRICES_VARIABLE}) cannot be read: {type(error).__name__}; "
            "expected `host: {model: {input: USD, output: USD}}` per million tokens"
        ) from error


@dataclass
class Usage:
    """Tokens of some replies, as their server counts them."""

    calls: int = 0
    """Replies received."""
    tokens_in: int = 0
    tokens_out: int = 0
    counted: bool = True
    """False once a reply came without token counts: the sums are lower bounds then."""

    def add(self, tokens_in: int | None, tokens_out: int | None) -> None:
        """Book one reply."""
        self.calls += 1
        if tokens_in is None or tokens_out is None:
            self.counted = False
        self.tokens_in += tokens_in or 0
        self.tokens_out += tokens_out or 0


@dataclass
class Spending(Usage):
    """Running account of one judge."""

    price: Price | None = None
    limit: float | None = None
    """USD that may be spent; None: no limit."""
    cached: int = 0
    """Verdicts taken from the cache."""
    unscored: int = 0
    """Items that could not be judged."""
    _reserved: float = field(default=0.0, repr=False)

    @property
    def usd(self) -> float | None:
        """Money spent; None when the price is unknown or a reply came without token counts."""
        if self.price is None or not self.counted:
            return None
        return self.price.of(self.tokens_in, self.tokens_out)

    def reserve(self, characters: int, max_tokens: int, images: int = 0) -> float | None:
        """Set money aside for a request about to be made; None when the limit does not allow it."""
        if self.limit is None or self.price is None:
            return 0.0
        tokens = characters // _CHARACTERS_PER_TOKEN + 50 + images * _TOKENS_PER_IMAGE
        amount = self.price.of(tokens, max_tokens)
        if self.price.of(self.tokens_in, self.tokens_out) + self._reserved + amount > self.limit:
            return None
        self._reserved += amount
        return amount

    @property
    def waiting(self) -> bool:
        """True while calls under way may still turn out cheaper than what was set aside for them."""
        return self._reserved > 1e-12

    def release(self, amount: float) -> None:
        """Give back what was set aside for a call that is over."""
        self._reserved -= amount

    def line(self) -> str:
        """One line for a progress bar."""
        if self.calls == 0:
            money = "nothing spent"
        elif self.usd is None:
            money = "price unknown"
        else:
            money = f"{self.usd:.4f} USD"
        return (
            f"{self.calls} calls, {self.cached} from cache, {self.unscored} unscored, "
            f"{self.tokens_in}+{self.tokens_out} tokens, {money}"
        )
