"""Aggregation: hand-computed cases, and what must not matter."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.statistics.intervals import wilson
from shiftdc_eval.judges.verdict import Verdict, unscored
from shiftdc_eval.tasks.metrics import (
    InResultFile,
    any_of,
    count_unscored,
    mean,
    mean_of_means,
    require_each_once,
    split_means,
    summary,
    value_of,
)

VALUES = st.lists(st.sampled_from([0.0, 1.0, None]), max_size=30)


def test_the_mean_is_over_the_scored_rows() -> None:
    assert mean([1.0, 0.0, None, 1.0]) == pytest.approx(2 / 3)
    assert count_unscored([1.0, 0.0, None, 1.0]) == 1


def test_the_mean_of_nothing_scored_is_no_number() -> None:
    assert mean([None, None]) == "N/A"
    assert mean([]) == "N/A"


@given(VALUES, st.randoms())
def test_the_order_of_rows_does_not_matter(values: list[float | None], order: random.Random) -> None:
    items = {f"i{n}": value for n, value in enumerate(values)}
    groups = {item: f"g{n % 3}" for n, item in enumerate(items)}
    shuffled = list(items)
    order.shuffle(shuffled)
    again = {item: items[item] for item in shuffled}
    assert mean(items.values()) == mean(again.values())
    assert split_means(items, groups) == split_means(again, groups)
    assert list(split_means(again, groups)) == sorted(split_means(again, groups))


@given(VALUES)
def test_an_unscored_row_changes_no_mean(values: list[float | None]) -> None:
    assert mean([*values, None]) == mean(values)


@given(VALUES)
def test_scored_and_unscored_rows_of_the_groups_add_up(values: list[float | None]) -> None:
    items = {f"i{n}": value for n, value in enumerate(values)}
    parts = split_means(items, {item: f"g{n % 4}" for n, item in enumerate(items)})
    assert sum(part["scored"] + part["unscored"] for part in parts.values()) == len(values)


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 50, 0.0, 0.07135), (5, 10, 0.23659, 0.76341), (50, 50, 0.92865, 1.0), (12, 100, 0.06999, 0.19815)],
)
def test_intervals_are_wilsons(count: int, total: int, low: float, high: float) -> None:
    assert wilson(count, total) == pytest.approx([low, high], abs=1e-4)


@given(st.integers(1, 300), st.data())
def test_an_interval_holds_its_share(total: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, total))
    low, high = wilson(count, total)
    assert 0 <= low <= count / total + 1e-12
    assert count / total - 1e-12 <= high <= 1


def test_only_a_share_with_something_scored_has_an_interval() -> None:
    assert "interval" not in summary([0.0, 1.0])
    assert "interval" not in summary([None], share=True)
    assert summary([1.0, None], share=True)["interval"] == list(wilson(1, 1))


def test_the_mean_of_means_weighs_groups_alike() -> None:
    items = {"a": 1.0, "b": 0.0, "c": 0.0, "d": 1.0}
    parts = split_means(items, {"a": "x", "b": "y", "c": "y", "d": "y"})
    assert mean_of_means(parts) == pytest.approx((1 + 1 / 3) / 2)
    assert mean_of_means(parts, ["x"]) == 1.0


def test_a_mean_of_means_with_a_group_absent_or_unscored_is_no_number() -> None:
    parts = split_means({"a": 1.0, "b": None}, {"a": "x", "b": "y"})
    assert mean_of_means(parts) == "N/A"
    assert mean_of_means(parts, ["x", "z"]) == "N/A"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 1.0], 1.0), ([0.0, 0.0], 0.0), ([None, 1.0], 1.0), ([None, 0.0], None), ([None], None)],
)
def test_any_of_the_answers(values: list[float | None], expected: float | None) -> None:
    assert any_of(values) == expected


def test_verdicts_become_numbers() -> None:
    assert value_of(Verdict(kind="harm", value="unsafe"), "unsafe") == 1.0
    assert value_of(Verdict(kind="harm", value="safe"), "unsafe") == 0.0
    assert value_of(Verdict(kind="score", value=0.4), None) == 0.4
    assert value_of(unscored("harm", "no reply"), "unsafe") is None


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["a", "b", "b"], "appear twice: b"),
        (["a"], "are missing: b"),
        (["a", "b", "c"], "are of unknown items: c"),
    ],
)
def test_items_that_are_not_there_exactly_once_are_named(items: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        require_each_once(items, ["a", "b"], "task")


def test_a_nested_result_survives_every_json_writer() -> None:
    nested = InResultFile({"a": {"mean": 0.5}})
    for indent in (None, 2):
        assert json.loads(json.dumps({"x": nested}, indent=indent)) == {"x": {"a": {"mean": 0.5}}}
