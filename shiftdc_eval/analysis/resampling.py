"""Estimates with bootstrap intervals: whole questions are drawn, so that items of one question stay together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]

DRAWS = 500
CONFIDENCE = 0.95
SEED = 20250213


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval; None where the data cannot give it."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    """Items it rests on."""


def codes(names: Sequence[str]) -> Ints:
    """Numbers from 0 without gaps in place of names."""
    return np.unique(np.asarray(names, dtype=str), return_inverse=True)[1].astype(np.int64)


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
        drawn = np.stack(
            [np.bincount(generator.integers(0, count, count), minlength=count) for _ in range(draws)]
        )
        self.weights: Floats = drawn[:, clusters].astype(np.float32)
        """`[draws, n]`: how often each item was drawn."""

    def within(self, chosen: Bools) -> Resample:
        """The draws restricted to some items."""
        return Resample(self.weights[:, chosen], chosen)


@dataclass(frozen=True)
class Resample:
    """Bootstrap draws of some of the items."""

    weights: Floats
    """`[draws, chosen items]`."""
    chosen: Bools
    """`[n]`: which items."""

    @cached_property
    def _with_data(self) -> Floats:
        """The data itself, then the draws: `[1 + draws, chosen]`."""
        return np.concatenate([np.ones((1, self.weights.shape[1]), dtype=np.float32), self.weights])

    def mean(self, values: Floats | Bools) -> Estimate:
        """Mean of `[n]` values over the chosen items."""
        picked = np.asarray(values)[self.chosen].astype(np.float64)
        if not len(picked):
            return Estimate(None, None, None, 0)
        weights = self._with_data.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return estimate(weights @ picked / weights.sum(1), len(picked))

    def auroc(self, scores: Floats, positive: Bools) -> Estimate:
        """Area under the ROC curve of `[n]` scores: the chance that a positive item has the higher one."""
        return estimate(
            weighted_auroc(scores[self.chosen], positive[self.chosen], self._with_data),
            int(self.chosen.sum()),
        )

    def rank_correlation(self, x: Floats, y: Floats | Bools) -> Estimate:
        """Spearman's rank correlation of two `[n]` columns."""
        found = weighted_spearman(x[self.chosen], np.asarray(y)[self.chosen].astype(float), self._with_data)
        return estimate(found, int(self.chosen.sum()))


def estimate(values: Floats, n: int) -> Estimate:
    """The first entry with the central interval of the others; draws without a value are left out."""
    if not np.isfinite(values[0]):
        return Estimate(None, None, None, n)
    drawn = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(float(values[0]), float(low), float(high), n)


def weighted_auroc(scores: Floats, positive: Bools, weights: Floats) -> Floats:
    """AUROC under each row of weights; ties count half.

    Args:
        scores: `[n]`.
        positive: `[n]`.
        weights: `[draws, n]`, how often each item counts.

    Returns:
        `[draws]`; NaN where a side is empty.
    """
    order, starts, _ = _ties(scores)
    sorted_weights = weights[:, order].astype(np.float64)
    up = np.add.reduceat(sorted_weights * positive[order], starts, axis=1)
    down = np.add.reduceat(sorted_weights * ~positive[order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((up * below).sum(1) / (up.sum(1) * down.sum(1)))


def weighted_spearman(x: Floats, y: Floats, weights: Floats) -> Floats:
    """Spearman's correlation under each row of weights, `[draws]`; NaN where a column is constant."""
    a, b = (_midranks(column, weights) for column in (x, y))
    total = weights.sum(1, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        a = a - ((weights * a).sum(1) / total)[:, None]
        b = b - ((weights * b).sum(1) / total)[:, None]
        spread = np.sqrt((weights * a * a).sum(1) * (weights * b * b).sum(1))
        return np.asarray(np.where(spread > 1e-9, (weights * a * b).sum(1) / spread, np.nan))


def _midranks(column: Floats, weights: Floats) -> Floats:
    order, starts, group = _ties(column)
    counts = np.add.reduceat(weights[:, order].astype(np.float64), starts, axis=1)
    ranks = np.cumsum(counts, axis=1) - counts / 2
    back = np.empty(len(order), dtype=np.int64)
    back[order] = group
    return np.asarray(ranks[:, back])


def _ties(column: Floats) -> tuple[Ints, Ints, Ints]:
    """The order of a column, where each run of equal values starts in it, and the run of each place."""
    order = np.argsort(column, kind="stable")
    new = np.r_[True, np.diff(column[order]) != 0]
    return order, np.flatnonzero(new), np.cumsum(new) - 1
