"""Paired differences between two defenses over the answers both have.

Sources: McNemar 1947 and its exact form, Durkalski et al. 2003 (McNemar for clustered pairs, here as an exact
sign-flip distribution), Bonett and Price 2012 (interval of a paired difference), Fisher 1935 (sign flips),
Besag and Clifford 1991 (drawing them until enough reach the observed difference).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from shiftdc_eval.core.statistics.bootstrap import SEED, percentiles, resampled_mean, resampled_sums
from shiftdc_eval.core.statistics.intervals import (
    Bools,
    Floats,
    Ints,
    Z,
    cluster_sums,
    effective_size,
    numbered,
)
from shiftdc_eval.core.statistics.mme import mme_columns, mme_total

MIN_FLIPS = 10_000
FLIPS_A_PAIR = 400
"""Sign flips drawn for each pair of a family: 20 / 0.05, so that Holm's smallest step is 20 times above the
smallest p-value there can be."""
ENOUGH = 200
"""Drawing stops after so many flips that reach the observed difference: the p-value is then known to 7 %."""
SCALES = (1, 2, 4, 8, 10, 100)
"""Steps a point that scores come in: right or wrong, halves, StrongREJECT's eighths, MM-Vet's tenths, percent."""
EXACT_WORK = 30_000_000
"""Multiplications up to which the exact distribution is computed: it then takes about as long as drawing."""


@dataclass(frozen=True)
class Difference:
    """A paired difference, first minus second, over the answers both have."""

    value: float
    low: float
    high: float
    p: float
    n: int
    size: float
    """Effective number of pairs: fewer than `n` where answers share a question (binary outcomes)."""
    first_only: int = 0
    """Pairs in which only the first one fails (binary outcomes)."""
    second_only: int = 0
    """Pairs in which only the second one fails (binary outcomes)."""


NOTHING = Difference(math.nan, math.nan, math.nan, 1.0, 0, 0.0)
"""Where no answer is shared."""


def sign_flip_p(differences: Ints) -> float:
    """Exact two-sided p-value that independent integer differences are symmetric around zero.

    With one answer a question every difference is -1, 0 or 1 and this is the exact McNemar test; with
    several answers a question, whole questions change sides.

    Args:
        differences: [clusters] first minus second, summed within each question.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    distribution = np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = fair_coins(int(count))
        distribution = np.convolve(distribution, steps)
    reach = len(distribution) // 2
    observed = abs(int(differences.sum()))
    if not observed:
        return 1.0
    return float(min(1.0, 2 * distribution[reach + observed :].sum()))


def fair_coins(count: int) -> Floats:
    """[count + 1] probability of each number of heads."""
    heads = np.arange(count + 1)
    ways = special.gammaln(count + 1) - special.gammaln(heads + 1) - special.gammaln(count - heads + 1)
    return np.asarray(np.exp(ways - count * math.log(2)))


def score_flip_p(differences: Floats, flips: int) -> float:
    """Two-sided sign-flip p-value of differences of scores: exact where they are steps of a scale, else drawn.

    Args:
        differences: [clusters] first minus second, summed within each question.
        flips: sign flips to draw where there are no steps.
    """
    for scale in SCALES:
        steps = np.rint(differences * scale)
        if np.abs(differences * scale - steps).max() < 1e-6:
            whole = steps.astype(np.int64)
            if exact_work(whole) <= EXACT_WORK:
                return sign_flip_p(whole)
            break
    return drawn_flip_p(differences, flips)


def exact_work(differences: Ints) -> int:
    """Multiplications that the exact distribution of all sign flips takes."""
    work, length = 0, 1
    for size, count in zip(*np.unique(np.abs(differences), return_counts=True), strict=True):
        steps = 2 * int(size) * int(count) + 1
        work += length * steps
        length += steps - 1
    return work


def paired_proportions(first: Bools, second: Bools, clusters: Ints) -> Difference:
    """Difference of two shares over shared answers: exact McNemar p, Bonett-Price interval.

    Args:
        first: [n] outcomes of the first defense.
        second: [n] outcomes of the second, same answers in the same order.
        clusters: [n] question of each answer.
    """
    n = len(first)
    if not n:
        return NOTHING
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    difference = first.astype(np.float64) - second.astype(np.float64)
    sums, counts = cluster_sums(difference, clusters)
    value = float(difference.mean())
    size = effective_size(sums, counts, float(difference.var()))
    share_first = (only_first / n * size + 1) / (size + 2)
    share_second = (only_second / n * size + 1) / (size + 2)
    centre = share_first - share_second
    half = Z * math.sqrt((share_first + share_second - centre**2) / (size + 2))
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    p = sign_flip_p(np.rint(sums).astype(np.int64))
    return Difference(value, min(low, value), max(high, value), p, n, size, only_first, only_second)


def flips_for(pairs: int) -> int:
    """Sign flips to draw for each pair of a family of `pairs`, so that Holm can separate every one of them."""
    return max(MIN_FLIPS, FLIPS_A_PAIR * pairs)


def drawn_flip_p(differences: Floats, flips: int) -> float:
    """Two-sided p-value that independent differences are symmetric around zero, from drawn sign flips.

    Drawing stops early once `ENOUGH` flips reach the observed difference. The smallest p is 1 / (flips + 1).

    Args:
        differences: [clusters] first minus second, summed or weighted within each question.
        flips: sign flips to draw.
    """
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return 1.0
    total = float(sizes.sum())
    observed = abs(float(differences.sum())) - 1e-9 * total  # ties count, however the sums are rounded
    bits = np.random.PCG64(SEED)
    width = -(-len(sizes) // 64)
    reached, drawn = 0, 0
    while drawn < flips and reached < ENOUGH:
        rows = min(1000, flips - drawn)
        raw = bits.random_raw(rows * width).astype("<u8").view(np.uint8).reshape(rows, 8 * width)
        turned = np.unpackbits(raw, axis=1, count=len(sizes)).astype(np.float64) @ sizes
        reached += int((np.abs(total - 2 * turned) >= observed).sum())
        drawn += rows
    return (reached + 1) / (drawn + 1)


def paired_scores(first: Floats, second: Floats, clusters: Ints, flips: int = MIN_FLIPS) -> Difference:
    """Difference of two mean scores over shared answers: bootstrap interval and sign-flip p, by question."""
    if not len(first):
        return NOTHING
    sums, counts = cluster_sums(first - second, clusters)
    low, high = percentiles(resampled_mean(sums, counts))
    value = float((first - second).mean())
    return Difference(value, low, high, score_flip_p(sums, flips), len(first), float(len(counts)))


def paired_mme(
    first: Floats,
    second: Floats,
    clusters: Ints,
    subtasks: Ints,
    repeats: Ints,
    flips: int = MIN_FLIPS,
) -> Difference:
    """Difference of two MME scores over shared answers: bootstrap interval and sign-flip p, by image.

    Both are over the same answers, so that the difference of the scores is a sum over images.
    """
    if not len(first):
        return NOTHING
    images = numbered(clusters)
    one, other = (mme_columns(scores, images, subtasks, repeats) for scores in (first, second))
    low, high = percentiles(mme_total(resampled_sums(one)) - mme_total(resampled_sums(other)))
    answers, pairs = one[:, 1::4].sum(axis=0), one[:, 3::4].sum(axis=0)
    change = 100 * (one - other)
    by_image = (change[:, 0::4] / answers + change[:, 2::4] / np.maximum(pairs, 1)).sum(axis=1)
    p = drawn_flip_p(by_image, flips)
    return Difference(float(by_image.sum()), low, high, p, len(first), float(len(by_image)))
