"""`--judge words`: how many words an answer has, as a score."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar

from shiftdc_eval.judges.verdict import Item, Kind, Verdict, obstacle


class Words:
    """Counts words, at most `limit`. The settings of a spec such as `words:limit=100` arrive as text."""

    name: ClassVar[str] = "words"
    kind: ClassVar[Kind] = "score"

    def __init__(self, limit: str = "1000") -> None:
        self.limit = int(limit)

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that can change a verdict."""
        return hashlib.sha256(f"words 1, at most {self.limit}".encode()).hexdigest()

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item; a missing or empty response is unscored."""
        return [obstacle(item, "score") or self._counted(item.response or "") for item in items]

    def _counted(self, response: str) -> Verdict:
        return Verdict(kind="score", value=float(min(len(response.split()), self.limit)))
