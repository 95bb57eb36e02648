"""Cohen's kappa of two yes/no ratings whose answers come in clusters.

Sources: Cohen 1960; the delta method of Fleiss, Cohen and Everitt 1969 with variances summed by cluster. Where
every cluster has one answer this is the usual asymptotic interval.
"""

from __future__ import annotations

import math

import numpy as np

from shiftdc_eval.core.statistics.intervals import (
    Bools,
    Estimate,
    Ints,
    cluster_sums,
    quantile,
    variance_of_mean,
)


def kappa(first: Bools, second: Bools, clusters: Ints) -> Estimate:
    """Cohen's kappa with its interval; nan where both ratings are constant.

    Where no answer moves it (the two agree on all, or one of them is constant) the delta method knows no
    interval (nan).

    Args:
        first: [n] one rating of each answer.
        second: [n] the other.
        clusters: [n] question or prompt of each answer.
    """
    if not len(first):
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    equal, p, q = first == second, float(first.mean()), float(second.mean())
    observed, expected = float(equal.mean()), p * q + (1 - p) * (1 - q)
    if expected >= 1:
        return Estimate(math.nan, math.nan, math.nan, len(first), len(np.unique(clusters)))
    value = (observed - expected) / (1 - expected)
    # what each answer adds to kappa: the derivative by the observed and by the expected agreement
    by_margins = np.where(first, q, 1 - q) + np.where(second, p, 1 - p) - 2 * expected
    influence = ((equal - observed) * (1 - expected) - (1 - observed) * by_margins) / (1 - expected) ** 2
    sums, counts = cluster_sums(influence, clusters)
    half = math.sqrt(variance_of_mean(sums, counts)) * quantile(counts)
    if half < 1e-7:
        return Estimate(value, math.nan, math.nan, len(first), len(counts))
    return Estimate(value, max(-1.0, value - half), min(1.0, value + half), len(first), len(counts))
