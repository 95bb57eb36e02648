"""How well scores tell two classes apart: areas under the ROC and the precision-recall curve, clustered by question.

AUROC: ties count half (Mann-Whitney). AUPRC: average precision, the step sum that does not interpolate between points
(Davis and Goadrich 2006). Intervals: bootstrap of whole questions, drawn within each class.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from shiftdc_eval.core.statistics.bootstrap import CHUNK, RESAMPLES, draws, percentiles
from shiftdc_eval.core.statistics.intervals import Bools, Estimate, Floats, Ints, numbered, wilson


def areas(
    positive: Floats, negative: Floats, positive_clusters: Ints, negative_clusters: Ints
) -> tuple[Estimate, Estimate]:
    """AUROC and AUPRC of a score that is to be high for positives, with 95 % intervals.

    Where every draw has the area 1 (or AUROC 0), the bootstrap would call it certain: the interval is then Wilson's
    for as many trials as the smaller class has questions.

    Args:
        positive, negative: [n], [m] scores.
        positive_clusters, negative_clusters: question of each.
    """
    n, m = len(positive), len(negative)
    groups = numbered(positive_clusters), numbered(negative_clusters)
    sizes = [len(set(group.tolist())) for group in groups]
    if not n or not m:
        nothing = Estimate(math.nan, math.nan, math.nan, n + m, sum(sizes))
        return nothing, nothing
    # from the highest score down; equal scores are passed together
    scores = np.concatenate([positive, negative])
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    is_positive = (np.arange(n + m) < n)[order]
    whole = _areas(np.ones((1, n + m)), is_positive, ends)[:, 0]
    drawn = draws(sizes[0]), draws(sizes[1], stream=1)
    parts = np.array_split(np.arange(RESAMPLES), 1 + RESAMPLES * (n + m) // CHUNK)
    resampled = np.concatenate(
        [
            _areas(
                np.hstack([times[part][:, group] for times, group in zip(drawn, groups, strict=True)])[
                    :, order
                ],
                is_positive,
                ends,
            )
            for part in parts
        ],
        axis=1,
    )
    auroc, auprc = (
        _estimate(float(value), found, n + m, sizes) for value, found in zip(whole, resampled, strict=True)
    )
    return auroc, auprc


def _areas(weights: npt.NDArray[Any], is_positive: Bools, ends: Ints) -> Floats:
    """`[2, draws]`: both areas of weighted answers, `[draws, answers]` by falling score; `ends` closes each tie."""
    found = np.cumsum(weights * is_positive, axis=1, dtype=np.float64)[:, ends]
    alarms = np.cumsum(weights * ~is_positive, axis=1, dtype=np.float64)[:, ends]
    new_found, new_alarms = np.diff(found, prepend=0.0), np.diff(alarms, prepend=0.0)
    auroc = (new_alarms * (found - new_found / 2)).sum(axis=1) / (found[:, -1] * alarms[:, -1])
    precision = found / np.maximum(found + alarms, 1.0)
    auprc = (new_found * precision).sum(axis=1) / found[:, -1]
    return np.stack([auroc, auprc])


def _estimate(value: float, resampled: Floats, n: int, questions: list[int]) -> Estimate:
    if value in (0.0, 1.0) and (resampled == value).all():
        smaller = min(questions)
        low, high = wilson(value * smaller, smaller)
    else:
        low, high = percentiles(resampled)
    return Estimate(value, low, high, n, sum(questions))
