"""Estimates and their intervals, against plain implementations and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, spearmanr
from sklearn.metrics import roc_auc_score

from shiftdc_eval.core.statistics.intervals import numbered
from shiftdc_eval.core.statistics.weighted import Bootstrap, weighted_auroc, weighted_spearman

COLUMNS = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=4, max_size=30)


@given(COLUMNS)
@settings(max_examples=150, deadline=None)
def test_the_weighted_area_is_that_of_the_repeated_items(rows: list[tuple[int, bool, int]]) -> None:
    scores, positive, weights = (np.array(column) for column in zip(*rows, strict=True))
    repeated = np.repeat(positive, weights)
    found = weighted_auroc(scores.astype(float), positive, weights[:, None].astype(float))[0]
    if len(set(repeated.tolist())) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(roc_auc_score(repeated, np.repeat(scores, weights)))


@given(COLUMNS)
@settings(max_examples=150, deadline=None)
def test_the_weighted_rank_correlation_is_that_of_the_repeated_items(
    rows: list[tuple[int, bool, int]],
) -> None:
    x, y, weights = (np.array(column) for column in zip(*rows, strict=True))
    a, b = np.repeat(x, weights), np.repeat(y, weights)
    found = weighted_spearman(x.astype(float), y.astype(float), weights[:, None].astype(float))[0]
    if len(set(a.tolist())) < 2 or len(set(b.tolist())) < 2:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(a, b).statistic)


def test_the_interval_of_a_mean_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    everything = np.ones(60, dtype=bool)
    hits = 0
    for seed in range(300):
        # thirty questions of two items that move together
        values = np.repeat(rng.standard_normal(30), 2) + 0.1 * rng.standard_normal(60)
        bootstrap = Bootstrap(np.repeat(np.arange(30), 2), draws=200, seed=seed)
        found = bootstrap.within(everything).mean(values)
        hits += found.low <= 0 <= found.high
    assert 0.89 <= hits / 300 <= 0.98


def test_items_of_a_question_are_drawn_together() -> None:
    weights = Bootstrap(numbered(["a", "b", "a", "c"]), draws=50).weights
    assert (weights[0] == weights[2]).all()
    assert not (weights[0] == weights[1]).all()


def test_nothing_to_estimate_is_no_number() -> None:
    bootstrap = Bootstrap(np.arange(4), draws=20)
    nobody = np.zeros(4, dtype=bool)
    assert np.isnan(bootstrap.within(nobody).mean(np.ones(4)).value)
    assert np.isnan(bootstrap.within(~nobody).auroc(np.arange(4.0), ~nobody).value)


def test_outcomes_that_are_all_alike_have_an_interval_by_the_number_of_questions() -> None:
    # each question twice: 10 questions, not 20 items
    drawn = Bootstrap(np.repeat(np.arange(10), 2), draws=50).within(np.ones(20, dtype=bool))
    none, every = np.zeros(20), np.ones(20)
    unseen = float(binomtest(0, 10).proportion_ci(method="wilson").high)
    for values, ends in ((none, (0.0, unseen)), (every, (1 - unseen, 1.0))):
        found = drawn.share(values)
        assert (found.low, found.high) == pytest.approx(ends, abs=1e-4)
    same = drawn.change(every, every)
    assert (same.value, same.low, same.high) == pytest.approx((0.0, -unseen, unseen), abs=1e-4)
    mixed = np.arange(20) % 4 < 2
    assert drawn.share(mixed) == drawn.mean(mixed)
    assert drawn.change(mixed.astype(float), every) == drawn.mean(mixed - every)


def test_outcomes_of_no_item_have_no_interval() -> None:
    drawn = Bootstrap(np.arange(4), draws=20).within(np.zeros(4, dtype=bool))
    for found in (drawn.share(np.zeros(4)), drawn.change(np.zeros(4), np.zeros(4))):
        assert np.isnan([found.value, found.low]).all()
        assert found.n == 0
