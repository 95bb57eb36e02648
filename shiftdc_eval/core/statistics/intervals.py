"""Shares with Wilson intervals, clustered by question.

Sources: Wilson 1927 (interval), Korn and Graubard 1998 (effective sample size of clustered samples).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special  # scipy.stats takes a second to import

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CONFIDENCE = 0.95
Z = float(special.ndtri(0.5 + CONFIDENCE / 2))


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int
    """Scored answers."""
    clusters: int
    """Questions they belong to."""


def wilson(successes: float, n: float, z: float = Z) -> tuple[float, float]:
    """Wilson score interval of a proportion; n may be an effective sample size.

    Args:
        successes: in [0, n].
        n: sample size; 0 gives (0, 1).
        z: normal quantile of the confidence level.
    """
    if n <= 0:
        return 0.0, 1.0
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes <= 0 else max(0.0, centre - half)
    high = 1.0 if successes >= n else min(1.0, centre + half)
    return low, high


def numbered(names: Sequence[str] | Ints) -> Ints:
    """[n] numbers from 0 without gaps in place of names, in their order."""
    return np.unique(np.asarray(names), return_inverse=True)[1].astype(np.int64)


def cluster_sums(values: Floats, clusters: Ints) -> tuple[Floats, Floats]:
    """Sum of the values and their count in each non-empty cluster."""
    counts = np.bincount(clusters).astype(np.float64)
    sums = np.asarray(np.bincount(clusters, weights=values), dtype=np.float64)
    present = counts > 0
    return sums[present], counts[present]


def variance_of_mean(sums: Floats, counts: Floats) -> float:
    """Variance of a ratio mean over independent clusters, corrected for few of them."""
    n, m = counts.sum(), len(counts)
    few = m / (m - 1) if 1 < m < n else 1.0
    return few * float(((sums - sums.sum() / n * counts) ** 2).sum()) / float(n) ** 2


def quantile(counts: Floats) -> float:
    """Quantile of an interval: Student's for few clusters of several answers, else the normal one."""
    m = len(counts)
    return Z if m < 2 or m == counts.sum() else float(special.stdtrit(m - 1, 0.5 + CONFIDENCE / 2))


def effective_size(sums: Floats, counts: Floats, variance: float) -> float:
    """Answers that independent sampling would need for the same precision of the mean.

    The variance of the mean is compared with that of independent answers (`variance` is that of one answer);
    never above the number of answers; with Korn and Graubard's correction for few clusters. Without variance
    (all answers alike) each cluster counts once.
    """
    n, m = float(counts.sum()), len(counts)
    if m == n:
        return n
    if m < 2 or variance <= 0:
        return float(m)
    of_mean = variance_of_mean(sums, counts)
    return (min(n, variance / of_mean) if of_mean > 0 else n) * (Z / quantile(counts)) ** 2


def proportion(outcomes: Bools, clusters: Ints) -> Estimate:
    """Share of true outcomes with a Wilson interval, clustered by question.

    Args:
        outcomes: [n] whether each scored answer failed.
        clusters: [n] question of each answer.
    """
    n = len(outcomes)
    if not n:
        return Estimate(math.nan, 0.0, 1.0, 0, 0)
    sums, counts = cluster_sums(outcomes.astype(np.float64), clusters)
    share = float(outcomes.mean())
    size = effective_size(sums, counts, share * (1 - share))
    low, high = wilson(share * size, size)
    return Estimate(share, min(low, share), max(high, share), n, len(counts))
