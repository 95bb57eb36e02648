"""Agreement statistics for labels that come in clusters: several models' answers to one prompt are no
independent draws, so intervals go by prompt.

Sources: Wilson 1927 with the effective sample size of Korn and Graubard 1998 (rates); the delta method of
Fleiss, Cohen and Everitt 1969 with variances summed by cluster (kappa). Where every prompt stands once these
are the usual Wilson and asymptotic intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from shiftdc_eval.core.records import Rate

Z = float(stats.norm.ppf(0.975))
UNKNOWN = Rate(value=None, low=None, high=None)


def rate(hits: Sequence[bool], clusters: Sequence[str]) -> Rate:
    """A share with its 95 % interval.

    Args:
        hits: whether each answer counts.
        clusters: the prompt each answer belongs to.
    """
    values, codes = np.asarray(hits, np.float64), _codes(clusters)
    if not len(values):
        return UNKNOWN
    share = float(values.mean())
    size = _effective_size(values - share, share * (1 - share), codes)
    low, high = proportion_confint(share * size, size, method="wilson")
    return Rate(value=share, low=max(0.0, float(low)), high=min(1.0, float(high)))


def kappa(labels: Sequence[bool], verdicts: Sequence[bool], clusters: Sequence[str]) -> Rate:
    """Cohen's kappa of two yes/no ratings; unknown where both are constant. Where no answer moves it (they
    agree on all, or one of them is constant) the delta method knows no interval.

    Args:
        labels: whether the human label of each answer is positive.
        verdicts: whether the judge's verdict is.
        clusters: the prompt each answer belongs to.
    """
    a, b, codes = np.asarray(labels, np.float64), np.asarray(verdicts, np.float64), _codes(clusters)
    if not len(a):
        return UNKNOWN
    p, q = a.mean(), b.mean()
    observed, expected = float((a == b).mean()), float(p * q + (1 - p) * (1 - q))
    if expected == 1:
        return UNKNOWN
    value = (observed - expected) / (1 - expected)
    # what each answer adds to kappa: the derivative by the observed and by the expected agreement
    by_margins = np.where(a == 1, q, 1 - q) + np.where(b == 1, p, 1 - p) - 2 * expected
    influence = (((a == b) - observed) * (1 - expected) - (1 - observed) * by_margins) / (1 - expected) ** 2
    variance = _variance(influence, codes)
    if variance < 1e-15:
        return Rate(value=value, low=None, high=None)
    half = math.sqrt(variance) * _quantile(len(a), codes)
    return Rate(value=value, low=max(-1.0, value - half), high=min(1.0, value + half))


def _codes(clusters: Sequence[str]) -> npt.NDArray[np.int64]:
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(cluster, len(seen)) for cluster in clusters], np.int64)


def _variance(influence: npt.NDArray[np.float64], codes: npt.NDArray[np.int64]) -> float:
    """Variance of the mean of centred values whose clusters are independent."""
    sums, n = np.bincount(codes, weights=influence), len(influence)
    m = len(sums)
    few = m / (m - 1) if 1 < m < n else 1.0
    return few * float((sums**2).sum()) / n**2


def _quantile(n: int, codes: npt.NDArray[np.int64]) -> float:
    m = int(codes.max()) + 1
    return Z if m == n or m < 2 else float(stats.t.ppf(0.975, m - 1))


def _effective_size(centred: npt.NDArray[np.float64], variance: float, codes: npt.NDArray[np.int64]) -> float:
    """Independent answers that would tell a share as precisely; where all are alike, one a cluster."""
    n, m = len(centred), int(codes.max()) + 1
    if m == n:
        return float(n)
    if m < 2 or variance <= 0:
        return float(m)
    of_mean = _variance(centred, codes)
    size = min(float(n), variance / of_mean) if of_mean > 0 else float(n)
    return size * (Z / _quantile(n, codes)) ** 2
