"""What judging costs: tokens, and money where the price is known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from shiftdc_eval.core.api.chat_model import Spent
from shiftdc_eval.core.api.prices import Price
from shiftdc_eval.core.records import JudgeCost, VerdictRecord
from shiftdc_eval.judges.verdict import Verdict


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
