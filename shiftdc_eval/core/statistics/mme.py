"""MME's score: over subtasks, 100 accuracy + 100 paired accuracy, as in its authors' eval_tool."""

from __future__ import annotations

import math

import numpy as np

from shiftdc_eval.core.statistics.bootstrap import percentiles, resampled_sums
from shiftdc_eval.core.statistics.intervals import Estimate, Floats, Ints, numbered


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
    columns = mme_columns(scores, numbered(clusters), subtasks, repeats)
    sums = columns.sum(axis=0, keepdims=True)
    if not sums[:, 3::4].all():
        return Estimate(math.nan, math.nan, math.nan, n, images)
    low, high = percentiles(mme_total(resampled_sums(columns)))
    return Estimate(float(mme_total(sums)[0]), low, high, n, images)
