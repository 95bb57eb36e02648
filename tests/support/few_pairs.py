"""Directions from a few pairs of a contrast set, for tests that look at what is done with them."""

from __future__ import annotations

from pathlib import Path

from shiftdc_eval.defenses.contrast import ContrastSet, load_contrast

PAIRS = 20


def few(path: Path | None = None) -> ContrastSet:
    """The beginning of a contrast set, all of whose categories are in it alike."""
    whole = load_contrast(path)
    return ContrastSet(tuple(whole.spread()[:PAIRS]), whole.name)
