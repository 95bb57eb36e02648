"""What judging costs: tokens, and money where the price is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.records import JudgeCost, VerdictRecord
from shiftdc_eval.judges.chat_model import Spent
from shiftdc_eval.judges.verdict import Verdict

PRICES_VARIABLE = "SHIFTDC_PRICES"
TABLE = Path(__file__).parent / "prices.yaml"


@dataclass(frozen=True)
class Price:
    """USD per million tokens."""

    input: float
    output: float

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """USD for so many tokens."""
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


def price_of(host: str, model: str) -> Price | None:
    """The price of a model at a host, from the table named by `SHIFTDC_PRICES` or the package's own.

    Returns:
        None when the table has no such host or model: an unknown price is not zero.

    Raises:
        ConfigError: the table cannot be read.
    """
    path = Path(setting(PRICES_VARIABLE) or TABLE)
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
class Spending:
    """Running account of one judge."""

    price: Price | None = None
    spent: Spent = field(default_factory=Spent)
    cached: int = 0
    """Verdicts taken from the cache."""
    unscored: int = 0
    """Items that could not be judged."""

    @property
    def usd(self) -> float | None:
        """Money spent; None when the price is unknown or a reply came without token counts."""
        if self.price is None or self.spent.tokens_in is None or self.spent.tokens_out is None:
            return None
        return self.price.of(self.spent.tokens_in, self.spent.tokens_out)

    def line(self) -> str:
        """One line for a progress bar."""
        tokens = [
            "?" if count is None else str(count) for count in (self.spent.tokens_in, self.spent.tokens_out)
        ]
        if self.spent.calls == 0:
            money = "nothing spent"
        else:
            money = "price unknown" if self.usd is None else f"{self.usd:.4f} USD"
        return (
            f"{self.spent.calls} calls, {self.cached} from cache, {self.unscored} unscored, "
            f"{'+'.join(tokens)} tokens, {money}"
        )


def cost_of(verdicts: Iterable[Verdict | VerdictRecord]) -> JudgeCost:
    """Total cost of some verdicts; a sum is None when one part is unknown."""
    parts = (
        JudgeCost(**verdict.model_dump(include={"seconds", "tokens_in", "tokens_out", "price"}))
        for verdict in verdicts
    )
    return sum(parts, start=JudgeCost(seconds=0, tokens_in=0, tokens_out=0, price=0))
