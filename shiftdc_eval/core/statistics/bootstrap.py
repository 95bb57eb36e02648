"""Scores: means with bootstrap intervals; whole questions are drawn (Efron 1979)."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shiftdc_eval.core.statistics.intervals import (
    CONFIDENCE,
    Estimate,
    Floats,
    Ints,
    cluster_sums,
    proportion,
)

RESAMPLES = 2000
SEED = 20250213
"""Seed of the bootstrap: the same verdicts give the same bytes."""
CHUNK = 2_000_000
"""Draws that are floats at a time: 16 MB."""


@lru_cache(maxsize=4)
def draws(size: int, stream: int = 0) -> npt.NDArray[np.uint8]:
    """[RESAMPLES, size] how often each of `size` clusters is drawn; the same for every caller of one stream.

    From raw bits, whose stream NumPy guarantees over its versions, unlike that of its distributions: the
    board must come out byte-identical elsewhere.
    """
    bits = np.random.PCG64(SEED + stream)
    counts = np.empty((RESAMPLES, size), np.uint8)
    for row in counts:
        drawn = (bits.random_raw(size) % np.uint64(size)).astype(np.int64)
        row[:] = np.bincount(drawn, minlength=size)
    return counts


def resampled_sums(columns: Floats) -> Floats:
    """Sums of each column over bootstrap draws of its rows.

    Args:
        columns: [clusters, k].
    Returns:
        [RESAMPLES, k].
    """
    parts = np.array_split(draws(len(columns)), 1 + RESAMPLES * len(columns) // CHUNK)
    return np.concatenate([part.astype(np.float64) @ columns for part in parts])


def percentiles(sums: Floats) -> tuple[float, float]:
    """Central interval of bootstrap draws."""
    low, high = np.quantile(sums, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def mean_score(scores: Floats, clusters: Ints) -> Estimate:
    """Mean with a bootstrap interval; whole questions are drawn.

    Where all answers score the same every draw is alike, and the bootstrap would call the mean certain: of
    answers that are all right or all wrong the interval is Wilson's, of others there is none (nan).

    Args:
        scores: [n] scores of the scored answers.
        clusters: [n] question of each answer.
    """
    if not len(scores):
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    sums, counts = cluster_sums(scores, clusters)
    if scores.min() == scores.max():
        if scores[0] in (0, 1):
            return proportion(scores > 0.5, clusters)
        return Estimate(float(scores[0]), math.nan, math.nan, len(scores), len(counts))
    low, high = percentiles(resampled_mean(sums, counts))
    return Estimate(float(scores.mean()), low, high, len(scores), len(counts))


def resampled_mean(sums: Floats, counts: Floats) -> Floats:
    drawn = resampled_sums(np.column_stack([sums, counts]))
    return np.asarray(drawn[:, 0] / drawn[:, 1])
