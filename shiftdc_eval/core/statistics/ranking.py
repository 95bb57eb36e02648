"""What many comparisons say together: Holm's adjustment (1979), power."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import special

from shiftdc_eval.core.statistics.intervals import CONFIDENCE

POWER = 0.8
Z_POWER = float(special.ndtri(POWER))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order."""
    adjusted = [0.0] * len(ps)
    running = 0.0
    for rank, position in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        running = max(running, min(1.0, (len(ps) - rank) * ps[position]))
        adjusted[position] = running
    return adjusted


def detectable_errors(tests: int) -> float:
    """Standard errors that a difference must have to be found with 80 % power at the 5 % level, Holm-adjusted.

    Args:
        tests: hypotheses left when Holm's procedure stopped, each tested at the level 0.05 / tests; 1 for a
            single test.
    """
    return float(special.ndtri(1 - (1 - CONFIDENCE) / (2 * tests))) + Z_POWER


def detectable_difference(n: float, discordant: float, tests: int = 1) -> float:
    """Smallest paired difference of shares that n answers show with 80 % power.

    Args:
        n: shared answers (effective ones where they are clustered).
        discordant: share of pairs that differ, as observed; at least as many must as the difference itself is.
        tests: as `detectable_errors`.
    """
    if n <= 0:
        return 1.0
    errors = detectable_errors(tests)
    # d = errors * sqrt(share / n), where the share of pairs that differ cannot be below d
    return min(1.0, max(errors * math.sqrt(discordant / n), errors**2 / n))
