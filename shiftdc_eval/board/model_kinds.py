"""Marked models: toys and small research models have their own sections and are never compared with real models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Mark = Literal["", "small research model", "toy"]

MARKS: Mapping[Mark, str] = {
    "small research model": (
        "A small research model whose blind spot was made by training: it shows whether code and method work as "
        "claimed, and is no evidence about other models. A non-refusal by this model does not count as a successful "
        "attack."
    ),
    "toy": (
        "A toy model that was trained with its blind spot: it shows whether code and method work as claimed, and is "
        "no evidence about other models."
    ),
}
"""What the reader is told about marked models, by mark, in the order of their sections."""
HARMLESS: tuple[Mark, ...] = ("small research model",)
"""Marks of models that are too weak for a non-refusal to count as a successful attack: their refused share is shown."""


def mark_of(note: str) -> Mark:
    """The mark at the start of a model's note; empty for other notes (`checked against ...`)."""
    return next((mark for mark in MARKS if note == mark or note.startswith((f"{mark}:", f"{mark},"))), "")
