"""What a judge's reply says: one value, or none and why not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Parsed:
    """What a reply says: a value, or None and why not."""

    value: str | float | None
    reason: str = ""


def decide(values: Sequence[str | float], nothing: str = "no verdict found in the reply") -> Parsed:
    """The value that all statements agree on."""
    if not values:
        return Parsed(None, nothing)
    if len(set(values)) > 1:
        return Parsed(None, f"contradicting verdicts: {', '.join(map(str, dict.fromkeys(values)))}")
    return Parsed(values[-1])


def json_values(text: str, key: str) -> list[Any] | None:
    """Every value of `key` in a JSON object itself, doubled keys included; None when the text is no JSON object."""
    found: list[Any] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # the outermost object comes last; what an inner one holds may be a quotation
        found[:] = [value for name, value in pairs if name.lower() == key]
        return dict(pairs)

    try:
        return found if isinstance(json.loads(text, object_pairs_hook=collect), dict) else None
    except (ValueError, RecursionError):
        return None
