"""Scoring rules without a model, as judges."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shiftdc_eval.judges.verdict import Item, Kind, Verdict, unscored


@dataclass(frozen=True)
class AnswerRule:
    """Scores 1 where an answer reads as the reference does, else 0; a failed generation is unscored."""

    name: str
    read: Callable[[str], str | None]
    """Answer or reference -> what is compared; None: nothing can be read, and the answer is unscored."""
    version: int = 1
    """Raised by hand when the rule changes."""
    gives_reason: bool = True
    """Whether the reading is recorded as the verdict's reason."""
    kind: Kind = "score"

    @property
    def fingerprint(self) -> str:
        """sha256 of the rule's name and version."""
        return hashlib.sha256(f"{self.name}:{self.version}".encode()).hexdigest()

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item."""
        return [self._one(item) for item in items]

    def _one(self, item: Item) -> Verdict:
        if item.response is None:
            return unscored("score", item.cut or "no response: generation failed")
        found = self.read(item.response)
        if found is None:
            return unscored("score", "no answer can be read")
        right = found == self.read(item.reference or "")
        return Verdict(kind="score", value=float(right), reason=found if self.gives_reason else "")
