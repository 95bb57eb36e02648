"""Does an answer run in circles?"""

from __future__ import annotations

import re
from collections import Counter

LONGEST = 24
"""Longest unit, in tokens, whose repetition is looked for."""
SHORT, REPEATS = 4, 3
"""A single token is a loop from `SHORT` times in a row, a longer unit from `REPEATS`."""
ENOUGH, VARIED = 40, 0.5
"""From `ENOUGH` tokens on, at least this share of the runs of four tokens must be different ones."""
_NUMBERING = re.compile(r"^[\W\d]+")
_TOKEN = re.compile(r"\w+|[^\w\s]")


def looping(text: str) -> bool:
    """True when a unit of words repeats in a row, or when little of a longer answer is new.

    Rows of bare punctuation (`...`, `---`) are no loops. `1. 1.1.1` is one; so is the same line thrice,
    whatever its numbers.
    """
    lines = Counter(_NUMBERING.sub("", line).strip().lower() for line in text.splitlines())
    if any(count >= REPEATS and any(map(str.isalnum, line)) for line, count in lines.items()):
        return True
    tokens = _TOKEN.findall(text.lower())
    for size in range(1, min(LONGEST, len(tokens) // REPEATS) + 1):
        wanted = (SHORT if size == 1 else REPEATS) * size
        same = 0
        for at in range(size, len(tokens)):
            same = same + 1 if tokens[at] == tokens[at - size] else 0
            if same >= wanted - size and any(t[0].isalnum() for t in tokens[at - size + 1 : at + 1]):
                return True
    runs = [tuple(tokens[at : at + 4]) for at in range(len(tokens) - 3)]
    return len(tokens) >= ENOUGH and len(set(runs)) < VARIED * len(runs)
