"""The board's statistics as pure functions of per-sample verdicts.

Sources: Wilson 1927 (interval), Korn and Graubard 1998 (effective sample size of clustered samples), McNemar
1947 and its exact form, Durkalski et al. 2003 (McNemar for clustered pairs, here as an exact sign-flip
distribution), Bonett and Price 2012 (interval of a paired difference), Holm 1979, Efron 1979 (bootstrap),
Fisher 1935 (sign flips), Besag and Clifford 1991 (drawing them until enough reach the observed difference).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CONFIDENCE = 0.95
POWER = 0.8
RESAMPLES = 2000
MIN_FLIPS = 10_000
FLIPS_A_PAIR = 400
"""Sign flips drawn for each pair of a family: 20 / 0.05, so that Holm's smallest step is 20 times above the
smallest p-value there can be."""
ENOUGH = 200
"""Flips at least as large as what was observed after which no more are drawn: the p-value is known to 7 %."""
SEED = 20250213
"""Seed of the bootstrap: the same verdicts give the same bytes."""
Z = float(stats.norm.ppf(0.5 + CONFIDENCE / 2))
Z_POWER = float(stats.norm.ppf(POWER))


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


@dataclass(frozen=True)
class Difference:
    """A paired difference, first minus second, over the answers both have."""

    value: float
    low: float
    high: float
    p: float
    n: int
    first_only: int
    """Pairs in which only the first one fails (binary outcomes)."""
    second_only: int
    """Pairs in which only the second one fails (binary outcomes)."""
    size: float
    """Effective number of pairs: fewer than `n` where answers share a question (binary outcomes)."""


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


def cluster_sums(values: Floats, clusters: Ints) -> tuple[Floats, Floats]:
    """Sum of the values and their count in each non-empty cluster."""
    counts = np.bincount(clusters).astype(np.float64)
    sums = np.asarray(np.bincount(clusters, weights=values), dtype=np.float64)
    present = counts > 0
    return sums[present], counts[present]


def effective_size(sums: Floats, counts: Floats, variance: float) -> float:
    """Answers that independent sampling would need for the same precision of the mean.

    The variance of a ratio mean over clusters is compared with that of independent answers (`variance` is
    that of one answer); never above the number of answers; with Korn and Graubard's correction for few
    clusters. Without variance (all answers alike) each cluster counts once.
    """
    n, m = float(counts.sum()), len(counts)
    if m == n:
        return n
    if m < 2 or variance <= 0:
        return float(m)
    mean = sums.sum() / n
    of_mean = m / (m - 1) * float(((sums - mean * counts) ** 2).sum()) / n**2
    size = min(n, variance / of_mean) if of_mean > 0 else n
    return float(size * (Z / stats.t.ppf(0.5 + CONFIDENCE / 2, m - 1)) ** 2)


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


@lru_cache(maxsize=8)
def _draws(size: int) -> npt.NDArray[np.uint8]:
    """[RESAMPLES, size] how often each of `size` clusters is drawn; the same for every caller.

    From raw bits, whose stream NumPy guarantees over its versions, unlike that of its distributions: the
    board must come out byte-identical elsewhere.
    """
    bits = np.random.PCG64(SEED)
    step = max(1, 1_000_000 // size)
    parts = []
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        drawn = (bits.random_raw(rows * size) % np.uint64(size)).astype(np.int64).reshape(rows, size)
        places = drawn + size * np.arange(rows)[:, None]
        counts = np.bincount(places.ravel(), minlength=rows * size)
        parts.append(counts.astype(np.uint8).reshape(rows, size))
    return np.concatenate(parts)


def resampled_sums(columns: Floats) -> Floats:
    """Sums of each column over bootstrap draws of its rows.

    Args:
        columns: [clusters, k].
    Returns:
        [RESAMPLES, k].
    """
    draws = _draws(len(columns))
    step = max(1, 2_000_000 // len(columns))  # keeps the float copy of the counts small
    parts = [draws[start : start + step].astype(np.float64) @ columns for start in range(0, RESAMPLES, step)]
    return np.concatenate(parts)


def percentiles(draws: Floats) -> tuple[float, float]:
    """Central interval of bootstrap draws."""
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def mean_score(scores: Floats, clusters: Ints) -> Estimate:
    """Mean with a bootstrap interval; whole questions are drawn.

    Args:
        scores: [n] scores of the scored answers.
        clusters: [n] question of each answer.
    """
    if not len(scores):
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    sums, counts = cluster_sums(scores, clusters)
    low, high = percentiles(_resampled_mean(sums, counts))
    return Estimate(float(scores.mean()), low, high, len(scores), len(counts))


def _resampled_mean(sums: Floats, counts: Floats) -> Floats:
    drawn = resampled_sums(np.column_stack([sums, counts]))
    return np.asarray(drawn[:, 0] / drawn[:, 1])


def mme_columns(scores: Floats, images: Ints, subtasks: Ints, repeats: Ints) -> Floats:
    """[images, 4 x subtasks]: right answers, answers, pairs of right answers, and pairs, of each image.

    Only an image whose two questions were both scored is a pair; a repeat of the two is another pair.

    Args:
        scores: [n] 1 for a right answer, 0 for a wrong one, nan where unscored.
        images: [n] image of each answer, numbered from 0 without gaps.
        subtasks: [n] subtask of each answer.
        repeats: [n] index of each answer among the repeats of its question.
    """
    size, times = int(images.max()) + 1, int(repeats.max()) + 1
    scored = ~np.isnan(scores)
    columns = []
    for subtask in np.unique(subtasks):
        inside = scored & (subtasks == subtask)
        places = images[inside] * times + repeats[inside]
        right = np.bincount(places, weights=scores[inside], minlength=size * times).reshape(size, times)
        answers = np.bincount(places, minlength=size * times).reshape(size, times)
        pair = answers == 2
        columns += [part.sum(axis=1) for part in (right, answers, pair & (right == 2), pair)]
    return np.column_stack(columns).astype(np.float64)


def mme_total(sums: Floats) -> Floats:
    """MME's score of each row of summed `mme_columns`: over subtasks, 100 acc + 100 acc_plus."""
    right, answers, both, pairs = (sums[:, part::4] for part in range(4))
    # a small subtask may be missing from a bootstrap draw
    accuracy = np.divide(right, answers, out=np.zeros_like(right), where=answers > 0)
    paired = np.divide(both, pairs, out=np.zeros_like(right), where=pairs > 0)
    return np.asarray(100 * (accuracy + paired).sum(axis=1))


def mme_score(scores: Floats, clusters: Ints, subtasks: Ints, repeats: Ints) -> Estimate:
    """MME's score (its authors' eval_tool: perception and cognition summed), bootstrapped over images.

    Arguments as `mme_columns`. There is no score (nan) when a subtask has no image with two scored answers.
    """
    scored = ~np.isnan(scores)
    n, images = int(scored.sum()), len(np.unique(clusters[scored]))
    if not n:
        return Estimate(math.nan, math.nan, math.nan, 0, 0)
    columns = mme_columns(scores, _dense(clusters), subtasks, repeats)
    sums = columns.sum(axis=0, keepdims=True)
    if not sums[:, 3::4].all():
        return Estimate(math.nan, math.nan, math.nan, n, images)
    low, high = percentiles(mme_total(resampled_sums(columns)))
    return Estimate(float(mme_total(sums)[0]), low, high, n, images)


def _dense(clusters: Ints) -> Ints:
    return np.asarray(np.unique(clusters, return_inverse=True)[1], dtype=np.int64)


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
        binomial = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        steps = np.zeros(2 * size * count + 1)
        steps[:: 2 * size] = binomial
        distribution = np.convolve(distribution, steps)
    reach = len(distribution) // 2
    observed = abs(int(differences.sum()))
    if not observed:
        return 1.0
    return float(min(1.0, 2 * distribution[reach + observed :].sum()))


def paired_proportions(first: Bools, second: Bools, clusters: Ints) -> Difference:
    """Difference of two shares over shared answers: exact McNemar p, Bonett-Price interval.

    Args:
        first: [n] outcomes of the first defense.
        second: [n] outcomes of the second, same answers in the same order.
        clusters: [n] question of each answer.
    """
    n = len(first)
    if not n:
        return Difference(math.nan, -1.0, 1.0, 1.0, 0, 0, 0, 0.0)
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
    return Difference(value, min(low, value), max(high, value), p, n, only_first, only_second, size)


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
        return Difference(math.nan, math.nan, math.nan, 1.0, 0, 0, 0, 0.0)
    sums, counts = cluster_sums(first - second, clusters)
    low, high = percentiles(_resampled_mean(sums, counts))
    value = float((first - second).mean())
    return Difference(value, low, high, drawn_flip_p(sums, flips), len(first), 0, 0, float(len(counts)))


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
        return Difference(math.nan, math.nan, math.nan, 1.0, 0, 0, 0, 0.0)
    images = _dense(clusters)
    one, other = (mme_columns(scores, images, subtasks, repeats) for scores in (first, second))
    low, high = percentiles(mme_total(resampled_sums(one)) - mme_total(resampled_sums(other)))
    answers, pairs = one[:, 1::4].sum(axis=0), one[:, 3::4].sum(axis=0)
    change = 100 * (one - other)
    by_image = (change[:, 0::4] / answers + change[:, 2::4] / np.maximum(pairs, 1)).sum(axis=1)
    return Difference(
        float(by_image.sum()),
        low,
        high,
        drawn_flip_p(by_image, flips),
        len(first),
        0,
        0,
        float(len(by_image)),
    )


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order."""
    adjusted = [0.0] * len(ps)
    running = 0.0
    for rank, position in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        running = max(running, min(1.0, (len(ps) - rank) * ps[position]))
        adjusted[position] = running
    return adjusted


def ranks(better: Sequence[Sequence[bool]]) -> list[tuple[int, int]]:
    """Best and worst rank each entry may hold.

    Args:
        better: `better[i][j]` is True when i is separably better than j.
    """
    size = len(better)
    return [
        (1 + sum(better[j][i] for j in range(size)), size - sum(better[i][j] for j in range(size)))
        for i in range(size)
    ]


def detectable_difference(n: float, discordant: float) -> float:
    """Smallest paired difference of shares that n answers show with 80 % power at the 5 % level.

    Args:
        n: shared answers (effective ones where they are clustered).
        discordant: share of pairs that differ, as observed; at least one pair is assumed to.
    """
    if n <= 0:
        return 1.0
    return min(1.0, (Z + Z_POWER) * math.sqrt(max(discordant, 1 / n) / n))


def kappa(first: Bools, second: Bools) -> float:
    """Cohen's kappa of two judges over the answers both scored; nan where it is undefined."""
    if not len(first):
        return math.nan
    agreement = float((first == second).mean())
    a, b = float(first.mean()), float(second.mean())
    chance = a * b + (1 - a) * (1 - b)
    return math.nan if chance >= 1 else (agreement - chance) / (1 - chance)
