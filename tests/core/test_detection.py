"""Areas under the curves of a detector's scores: against scikit-learn and against a bootstrap by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from shiftdc_eval.core.statistics import areas, wilson


def drawn(n: int, m: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores in steps, so that there are ties within and across the classes."""
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(0.8, 1, n), 1), np.round(rng.normal(0, 1, m), 1)


def pairwise(positive: np.ndarray, negative: np.ndarray) -> float:
    """AUROC by its definition: the share of pairs in which the positive is higher, ties counted half."""
    above, same = positive[:, None] > negative, positive[:, None] == negative
    return float((above + same / 2).mean())


@pytest.mark.parametrize(("n", "m", "seed"), [(40, 60, 1), (7, 200, 2), (1, 1, 3), (3, 2, 4), (150, 9, 5)])
def test_both_areas_are_scikit_learns(n: int, m: int, seed: int) -> None:
    positive, negative = drawn(n, m, seed)
    auroc, auprc = areas(positive, negative, np.arange(n), np.arange(m))
    labels, scores = [1] * n + [0] * m, np.concatenate([positive, negative])
    assert auroc.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auprc.value == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert auroc.low <= auroc.value <= auroc.high


def test_equal_scores_tell_nothing_apart() -> None:
    same = np.zeros(5)
    auroc, auprc = areas(same, same, np.arange(5), np.arange(5))
    assert (auroc.value, auroc.low, auroc.high, auprc.value) == (0.5, 0.5, 0.5, 0.5)


def test_the_interval_is_that_of_a_bootstrap_by_question_within_each_class() -> None:
    positive, negative = drawn(40, 30, 6)
    mine, theirs = np.arange(40) // 4, np.arange(30) // 2
    auroc, auprc = areas(positive, negative, mine, theirs)
    rng = np.random.default_rng(7)
    found = []
    for _ in range(500):
        rows = np.concatenate([np.flatnonzero(mine == q) for q in rng.integers(0, 10, 10)])
        others = np.concatenate([np.flatnonzero(theirs == q) for q in rng.integers(0, 15, 15)])
        labels = [1] * len(rows) + [0] * len(others)
        scores = np.concatenate([positive[rows], negative[others]])
        found.append((pairwise(positive[rows], negative[others]), average_precision_score(labels, scores)))
    for one, values in zip((auroc, auprc), np.transpose(found), strict=True):
        assert (one.low, one.high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.03)
    assert auroc.clusters == 25


def test_questions_of_either_class_are_drawn_apart_though_there_are_as_many() -> None:
    """The n-th benign item is as hard as the n-th harmful one here: drawn together, the interval would be too short."""
    positive = np.linspace(0, 3, 20)
    negative = positive - 0.5
    auroc, _ = areas(positive, negative, np.arange(20), np.arange(20))
    rng = np.random.default_rng(9)
    pairs = (rng.integers(0, 20, (2, 20)) for _ in range(2000))
    found = [pairwise(positive[a], negative[b]) for a, b in pairs]
    assert (auroc.low, auroc.high) == pytest.approx(np.quantile(found, [0.025, 0.975]), abs=0.015)


def test_four_answers_to_a_question_are_not_four_questions() -> None:
    positive, negative = np.repeat(drawn(12, 12, 8), 4, axis=1)
    whole = areas(positive, negative, np.arange(48) // 4, np.arange(48) // 4)[0]
    apart = areas(positive, negative, np.arange(48), np.arange(48))[0]
    assert whole.value == apart.value
    assert whole.high - whole.low > 1.5 * (apart.high - apart.low)


def test_a_perfect_separation_is_not_certain() -> None:
    for low, high in ((0.0, 1.0), (1.0, 0.0)):
        auroc, _ = areas(np.full(30, high), np.full(20, low), np.arange(30), np.arange(20))
        assert (auroc.low, auroc.high) == wilson(20 * auroc.value, 20)


def test_without_one_of_the_classes_there_is_no_area() -> None:
    auroc, auprc = areas(np.ones(3), np.array([]), np.arange(3), np.array([], np.int64))
    assert np.isnan([auroc.value, auroc.low, auprc.value]).all()
