"""Exact match with a reference answer, as a judge."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from shiftdc_eval.judges.verdict import Item, Kind, Verdict, unscored


@dataclass(frozen=True)
class ExactMatch:
    """1 if the answer is the reference, up to case, punctuation and a leading article; else 0."""

    name: str = "exact_match"
    kind: Kind = "score"

    @property
    def fingerprint(self) -> str:
        """sha256 of the rule's name and version."""
        return hashlib.sha256(b"exact_match:1").hexdigest()

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item."""
        return [self._one(item) for item in items]

    def _one(self, item: Item) -> Verdict:
        if item.response is None:
            return unscored("score", "no response: generation failed")
        right = short(item.response) == short(item.reference or "")
        return Verdict(kind="score", value=float(right))


def short(text: str) -> str:
    """A short answer in lower case, without punctuation and leading article."""
    words = re.findall(r"\w+", text.lower())
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)
