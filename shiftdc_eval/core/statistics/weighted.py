"""Means, areas under the ROC curve and rank correlations with bootstrap intervals, one draw of questions for all.

Whole questions are drawn, so that items of one question stay together; a draw is a weight for each item.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shiftdc_eval.core.statistics.bootstrap import SEED
from shiftdc_eval.core.statistics.intervals import CONFIDENCE, Bools, Estimate, Z

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

DRAWS = 500


class Bootstrap:
    """Draws of whole clusters with replacement, the same for every estimate.

    Args:
        clusters: `[n]` cluster of each item, numbered from 0 without gaps.
        draws: number of draws.
        seed: of the draws.
    """

    def __init__(self, clusters: Ints, draws: int = DRAWS, seed: int = SEED) -> None:
        count = int(clusters.max()) + 1
        generator = np.random.default_rng(seed)
        drawn = [np.ones(count, dtype=np.int64)]
        drawn += [np.bincount(generator.integers(0, count, count), minlength=count) for _ in range(draws)]
        self.weights: Floats = np.stack(drawn, axis=1)[clusters].astype(np.float32)
        """`[n, 1 + draws]`: how often each item counts, once in the data itself, then in each draw."""
        self._clusters = clusters
        self._parts: dict[bytes, Resample] = {}

    def within(self, chosen: Bools) -> Resample:
        """The draws restricted to some items, `[n]`."""
        key = chosen.tobytes()
        if key not in self._parts:
            clusters = len(np.unique(self._clusters[chosen]))
            self._parts[key] = Resample(self.weights[chosen], chosen, clusters)
        return self._parts[key]


@dataclass(frozen=True)
class Resample:
    """Bootstrap draws of some of the items."""

    weights: Floats
    """`[chosen items, 1 + draws]`."""
    chosen: Bools
    """`[n]`: which items."""
    clusters: int
    """Different clusters among them."""

    @cached_property
    def _wide(self) -> Floats:
        return self.weights.T.astype(np.float64)

    def mean(self, values: Floats | Bools) -> Estimate:
        """Mean of `[n]` values over the chosen items."""
        picked = np.asarray(values)[self.chosen].astype(np.float64)
        if not len(picked):
            return self._estimate(np.full(1, np.nan))
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._estimate(self._wide @ picked / self._wide.sum(1))

    def share(self, outcomes: Floats | Bools) -> Estimate:
        """Mean of `[n]` outcomes, 0 or 1. Where all are alike no draw differs: then Wilson's bound over clusters."""
        found = self.mean(outcomes)
        if found.value not in (0.0, 1.0):
            return found
        low, high = max(0.0, found.value - self._unseen), min(1.0, found.value + self._unseen)
        return replace(found, low=low, high=high)

    def change(self, after: Floats, before: Floats) -> Estimate:
        """Mean difference of `[n]` outcomes, 0 or 1; where none differs, the interval is what could be missed."""
        found = self.mean(after - before)
        if not found.n or np.any((after != before)[self.chosen]):
            return found
        return replace(found, low=-self._unseen, high=self._unseen)

    @property
    def _unseen(self) -> float:
        """The largest share that may stay unseen in all clusters (Wilson 1927)."""
        return Z**2 / (self.clusters + Z**2)

    def auroc(self, scores: Floats, positive: Bools) -> Estimate:
        """Area under the ROC curve of `[n]` scores: the chance that a positive item has the higher one."""
        return self._estimate(weighted_auroc(scores[self.chosen], positive[self.chosen], self.weights))

    def rank_correlation(self, x: Floats, y: Floats | Bools) -> Estimate:
        """Spearman's rank correlation of two `[n]` columns."""
        other = np.asarray(y)[self.chosen].astype(float)
        return self._estimate(weighted_spearman(x[self.chosen], other, self.weights))

    def _estimate(self, values: Floats) -> Estimate:
        """The first entry with the central interval of the others; draws without a value are left out."""
        low = high = np.nan
        if np.isfinite(values[0]):
            drawn = values[1:][np.isfinite(values[1:])]
            low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Estimate(float(values[0]), float(low), float(high), len(self.weights), self.clusters)


def weighted_auroc(scores: Floats, positive: Bools, weights: Floats) -> Floats:
    """AUROC under each column of weights, from the ranks of the positive items (Mann and Whitney 1947).

    Args:
        scores: `[n]`; ties count half.
        positive: `[n]`.
        weights: `[n, draws]`, how often each item counts.

    Returns:
        `[draws]`; NaN where a side is empty.
    """
    up = weights[positive].astype(np.float64)
    many = up.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        won = (up * _midranks(scores, weights)[positive]).sum(0) - many**2 / 2
        return np.asarray(won / (many * (weights.sum(0, dtype=np.float64) - many)))


def weighted_spearman(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Spearman's correlation under each column of weights, `[draws]`; NaN where a column is constant."""
    a, b = (_midranks(column, weights) for column in (x, y))
    total = weights.sum(0, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        a -= np.einsum("ij,ij->j", weights, a) / total
        b -= np.einsum("ij,ij->j", weights, b) / total
        spread = np.sqrt((weights * a * a).sum(0) * (weights * b * b).sum(0))
        return np.asarray(np.where(spread > 1e-9, (weights * a * b).sum(0) / spread, np.nan))


def _midranks(column: Floats, weights: Floats) -> Floats:
    """`[n, draws]`: items below each, with half of those that are equal to it, itself included."""
    values, group = np.unique(column, return_inverse=True)
    counts = np.zeros((len(values), weights.shape[1]))
    np.add.at(counts, group, weights)
    return np.asarray((np.cumsum(counts, axis=0) - counts / 2)[group])
