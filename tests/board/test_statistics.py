"""The statistics against scipy, statsmodels and scikit-learn on random tables, and by simulated coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from shiftdc_eval.core import statistics
from shiftdc_eval.core.statistics import bootstrap
from shiftdc_eval.core.statistics.paired import fair_coins
from shiftdc_eval.tasks.mme.scoring import SUBTASKS, Answered, subtask_scores, total

outcomes = st.lists(st.booleans(), min_size=1, max_size=200)
pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)


def own(size: int) -> np.ndarray:
    return np.arange(size)


@settings(deadline=None)
@given(outcomes)
def test_unclustered_intervals_are_those_of_statsmodels(values: list[bool]) -> None:
    found = statistics.proportion(np.array(values), own(len(values)))
    low, high = proportion_confint(sum(values), len(values), method="wilson")
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


@settings(deadline=None)
@given(pairs)
def test_unclustered_paired_p_is_the_exact_mcnemar_test(values: list[tuple[bool, bool]]) -> None:
    first, second = np.array(values).T
    found = statistics.paired_proportions(first, second, own(len(values)))
    table = [
        [np.sum(first & second), np.sum(first & ~second)],
        [np.sum(~first & second), np.sum(~first & ~second)],
    ]
    assert found.p == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert found.value == pytest.approx(first.mean() - second.mean())
    assert found.low <= found.value <= found.high


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=11))
def test_clustered_p_is_that_of_all_sign_flips(differences: list[int]) -> None:
    observed = abs(sum(differences))
    flips = [
        abs(sum(sign * size for sign, size in zip(signs, differences, strict=True))) >= observed
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    assert statistics.sign_flip_p(np.array(differences)) == pytest.approx(np.mean(flips))


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=20))
def test_holm_is_that_of_statsmodels(thousandths: list[int]) -> None:
    ps = [one / 1000 for one in thousandths]
    assert statistics.holm(ps) == pytest.approx(multipletests(ps, method="holm")[1])


@settings(deadline=None)
@given(pairs)
def test_kappa_is_that_of_scikit_learn(values: list[tuple[bool, bool]]) -> None:
    first, second = np.array(values).T
    found = statistics.kappa(first, second, own(len(values))).value
    if math.isnan(found):
        assert len(set(first) | set(second)) == 1
    else:
        assert found == pytest.approx(cohen_kappa_score(first, second))


def test_the_bootstrap_of_a_mean_is_that_of_scipy() -> None:
    scores = np.random.default_rng(1).beta(2, 5, 300)
    found = statistics.mean_score(scores, own(300))
    wanted = stats.bootstrap((scores,), np.mean, method="percentile", rng=2).confidence_interval
    assert (found.low, found.high) == pytest.approx(wanted, abs=0.003)
    assert found.value == pytest.approx(scores.mean())


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_answers_that_are_all_right_or_all_wrong_are_not_called_certain(right: float) -> None:
    found = statistics.mean_score(np.full(20, right), own(20))
    low, high = proportion_confint(20 * right, 20, method="wilson")
    assert (found.value, found.low, found.high) == pytest.approx((right, low, high))


def test_scores_that_are_all_alike_have_no_interval() -> None:
    found = statistics.mean_score(np.full(20, 0.3), own(20))
    assert found.value == 0.3
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_the_bootstrap_gives_the_same_bytes_twice() -> None:
    scores = np.random.default_rng(3).random(500)
    first = statistics.mean_score(scores, own(500))
    bootstrap.draws.cache_clear()
    assert statistics.mean_score(scores, own(500)) == first


def test_a_constant_difference_is_certain_and_no_difference_is_not() -> None:
    scores = np.random.default_rng(4).random(100)
    assert statistics.paired_scores(scores, scores, own(100)).p == 1
    shifted = statistics.paired_scores(scores + 0.2, scores, own(100))
    assert shifted.p < 0.002
    assert (shifted.low, shifted.high) == pytest.approx((0.2, 0.2))


def coverage(draw: object, truth: float, rounds: int = 600) -> float:
    hits = 0
    for seed in range(rounds):
        found = draw(np.random.default_rng(seed))  # type: ignore[operator]
        hits += found.low <= truth <= found.high
    return hits / rounds


@pytest.mark.parametrize(("share", "spread"), [(0.1, 1.0), (0.3, 3.0), (0.5, 0.5)])
def test_clustered_intervals_cover_where_plain_ones_do_not(share: float, spread: float) -> None:
    clusters = np.repeat(own(80), 3)

    def outcomes_of(random: np.random.Generator) -> np.ndarray:
        chance = random.beta(share * spread, (1 - share) * spread, 80)
        return random.random(240) < np.repeat(chance, 3)

    clustered = coverage(lambda random: statistics.proportion(outcomes_of(random), clusters), share)
    plain = coverage(lambda random: statistics.proportion(outcomes_of(random), own(240)), share)
    assert 0.92 <= clustered <= 0.985
    assert plain < clustered - 0.02


def test_paired_intervals_cover_the_true_difference() -> None:
    def draw(random: np.random.Generator) -> statistics.Difference:
        hard = random.random(150)
        first = hard * 0.6 + random.random(150) * 0.4 < 0.3
        second = hard * 0.6 + random.random(150) * 0.4 < 0.5
        return statistics.paired_proportions(first, second, own(150))

    def share_below(limit: float) -> float:
        grid = np.linspace(0, 1, 20001)
        return float(np.clip((limit - grid * 0.6) / 0.4, 0, 1).mean())

    truth = share_below(0.3) - share_below(0.5)
    assert 0.925 <= coverage(draw, truth) <= 0.98


def test_the_clustered_test_keeps_its_level_where_mcnemar_does_not() -> None:
    clusters = np.repeat(own(60), 4)
    clustered, plain = 0, 0
    for seed in range(400):
        random = np.random.default_rng(seed)
        first, second = (np.repeat(random.random(60) < 0.4, 4) for _ in range(2))
        clustered += statistics.paired_proportions(first, second, clusters).p < 0.05
        plain += statistics.paired_proportions(first, second, own(240)).p < 0.05
    assert clustered / 400 <= 0.06
    assert plain / 400 > 0.15


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(1, 4))
def test_alike_answers_of_a_question_count_once(questions: int, images: int) -> None:
    clusters = np.repeat(own(questions), images)
    found = statistics.proportion(np.ones(len(clusters), bool), clusters)
    assert found.low == pytest.approx(proportion_confint(questions, questions, method="wilson")[0])


def test_mme_is_the_sum_over_subtasks_of_accuracy_and_paired_accuracy() -> None:
    scores = np.array([1, 1, 1, 0, 0, 0, 1, 1.0])
    images = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    subtasks = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    once = np.zeros(8, np.int64)
    found = statistics.mme_score(scores, images, subtasks, once)
    assert found.value == pytest.approx((75 + 50) + (50 + 50))
    assert found.low <= found.value <= found.high
    assert statistics.paired_mme(scores, scores, images, subtasks, once).value == 0


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(*2 * [st.sampled_from([0.0, 1.0, None])]), min_size=1, max_size=12),
    st.integers(1, 3),
)
def test_mme_with_unscored_answers_is_what_the_task_itself_reports(
    pairs: list[tuple[float | None, float | None]], kinds: int
) -> None:
    names = SUBTASKS[:kinds]
    rows = [
        Answered(names[image % kinds], str(image), right)
        for image, pair in enumerate(pairs)
        for right in pair
    ]
    wanted = total(parts := subtask_scores(rows), list(parts))
    scores = np.array([math.nan if row.right is None else row.right for row in rows])
    images = np.array([int(row.image) for row in rows])
    found = statistics.mme_score(scores, images, images % kinds, np.zeros(len(rows), np.int64))
    if isinstance(wanted, str):
        assert math.isnan(found.value)
    else:
        assert found.value == pytest.approx(wanted)


def test_each_repeat_of_an_mme_image_is_a_pair_of_its_own() -> None:
    scores = np.array([1, 1, 1, 0.0])
    zeros = np.zeros(4, np.int64)
    found = statistics.mme_score(scores, zeros, zeros, np.array([0, 0, 1, 1]))
    assert found.value == pytest.approx(75 + 50)


def test_the_mme_difference_is_that_of_the_scores() -> None:
    random = np.random.default_rng(5)
    images = np.repeat(own(30), 2)
    subtasks, once = images % 4, np.zeros(60, np.int64)
    first, second = (random.integers(0, 2, 60).astype(float) for _ in range(2))
    found = statistics.paired_mme(first, second, images, subtasks, once)
    values = [statistics.mme_score(scores, images, subtasks, once).value for scores in (first, second)]
    assert found.value == pytest.approx(values[0] - values[1])
    assert found.low <= found.value <= found.high


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=11))
def test_drawn_flips_come_near_all_flips(differences: list[int]) -> None:
    exact = statistics.sign_flip_p(np.array(differences))
    drawn = statistics.drawn_flip_p(np.array(differences) / 10, 20_000)
    assert drawn == pytest.approx(exact, rel=0.35, abs=0.004)


@pytest.mark.parametrize("scale", [1, 8, 10])
def test_scores_in_steps_get_the_exact_p_of_all_flips(scale: int) -> None:
    steps = np.random.default_rng(scale).integers(-scale, scale + 2, 60)
    found = statistics.paired_scores(steps / scale, np.zeros(60), own(60))
    assert found.p == statistics.sign_flip_p(steps)
    assert found.p == pytest.approx(statistics.drawn_flip_p(steps / scale, 200_000), rel=0.4)


def test_flips_are_drawn_where_there_are_no_steps_or_far_too_many() -> None:
    smooth = np.random.default_rng(7).normal(0.3, 1, 80)
    assert statistics.paired_scores(smooth, np.zeros(80), own(80)).p == statistics.drawn_flip_p(
        smooth, statistics.MIN_FLIPS
    )
    large = np.random.default_rng(8).integers(-5000, 5000, 300)
    assert statistics.paired_scores(large.astype(float), np.zeros(300), own(300)).p == (
        statistics.drawn_flip_p(large.astype(float), statistics.MIN_FLIPS)
    )


@pytest.mark.parametrize("count", [0, 1, 30, 3000])
def test_the_numbers_of_heads_are_those_of_scipy(count: int) -> None:
    wanted = stats.binom.pmf(np.arange(count + 1), count, 0.5)
    assert fair_coins(count) == pytest.approx(wanted, rel=1e-10, abs=1e-300)


@pytest.mark.parametrize("mme", [False, True])
def test_holm_separates_all_right_from_all_wrong_among_fifty_five_pairs(mme: bool) -> None:
    images = np.repeat(own(40), 2)
    right, wrong, once = np.ones(80), np.zeros(80), np.zeros(80, np.int64)
    flips = statistics.flips_for(55)
    if mme:
        found = statistics.paired_mme(right, wrong, images, images % 2, once, flips)
    else:
        found = statistics.paired_scores(right, wrong, images, flips)
    assert (
        statistics.holm([found.p, *[1.0] * 54])[0] < 0.05 / 10
    )  # no step is near the floor of drawn p-values


def test_drawn_flips_keep_their_level() -> None:
    hits = 0
    for seed in range(400):
        random = np.random.default_rng(seed)
        hits += statistics.paired_scores(random.random(50), random.random(50), own(50)).p < 0.05
    assert 0.02 <= hits / 400 <= 0.08


@pytest.mark.parametrize("tests", [1, 28])
def test_where_no_answers_differ_a_difference_of_the_detectable_size_is_found(tests: int) -> None:
    """A difference takes as many answers that differ as it is large, however few were seen."""
    n = 300
    effect = statistics.detectable_difference(n, 0.0, tests)
    changed = np.random.default_rng(0).binomial(n, effect, 2000)
    found = [statistics.sign_flip_p(np.ones(count, np.int64)) < 0.05 / tests for count in changed if count]
    assert 0.72 <= sum(found) / 2000 <= 0.95


@pytest.mark.parametrize("tests", [1, 20])
def test_the_detectable_difference_is_detected_four_times_in_five(tests: int) -> None:
    n, discordant = 300, 0.3
    effect = statistics.detectable_difference(n, discordant, tests)
    found = 0
    for seed in range(500):
        only_first, only_second, _ = np.random.default_rng(seed).multinomial(
            n, [(discordant + effect) / 2, (discordant - effect) / 2, 1 - discordant]
        )
        found += statistics.sign_flip_p(np.repeat([1, -1], [only_first, only_second])) < 0.05 / tests
    assert 0.72 <= found / 500 <= 0.86


def test_nothing_scored_gives_no_number() -> None:
    nothing = np.zeros(0)
    assert math.isnan(statistics.proportion(nothing.astype(bool), own(0)).value)
    assert math.isnan(statistics.mean_score(nothing, own(0)).value)
    assert statistics.paired_scores(nothing, nothing, own(0)).n == 0
