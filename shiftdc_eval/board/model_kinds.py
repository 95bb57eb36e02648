"""Marked models: toys and small research models stand apart and are never set against real ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Mark = Literal["", "small research model", "toy"]

MARKS: Mapping[Mark, str] = {
    "small research model": (
        "A small research model whose blind spot was made by training: it shows whether code and method do what "
        "they claim, and is no evidence about other models. What it does not refuse is no successful attack."
    ),
    "toy": (
        "A toy model that was trained with its blind spot: it shows whether code and method do what they claim, and "
        "says nothing about other models."
    ),
}
"""What a reader is told of the marked models, by mark; in the order of their sections."""
HARMLESS: tuple[Mark, ...] = ("small research model",)
"""Marks of models that are too weak for their answers to be called attacks: of them the refused share is shown."""


def mark_of(note: str) -> Mark:
    """The mark that a model's note begins with; empty for notes that are none (`checked against ...`)."""
    return next((mark for mark in MARKS if note == mark or note.startswith((f"{mark}:", f"{mark},"))), "")
