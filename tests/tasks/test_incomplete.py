"""Data that is not the whole benchmark: said, recorded, and no total as if it were whole."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import mini_benchmarks as mini
import pytest

from shiftdc_eval.tasks.mm_safetybench.scenarios import CLEAR, SCENARIOS
from shiftdc_eval.tasks.mme.facts import COGNITION
from shiftdc_eval.tasks.mme.scoring import SUBTASKS
from shiftdc_eval.tasks.mme.task import MME

from .conftest import FakeJudge, any_font


@pytest.fixture
def data(mini_benchmarks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mini benchmarks, as what they are: a small part of each."""
    shutil.copytree(mini_benchmarks, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("SHIFTDC_DATA", str(tmp_path))
    monkeypatch.setenv("SHIFTDC_FONT", str(any_font()))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "loaded", "items", "totals"),
    [
        ("figstep", 20, 500, ["refusal_rate", "refusal_rate_clear", "keyword_asr"]),
        (
            "mm_safetybench_text_only",
            26,
            1680,
            ["refusal_rate", "refusal_rate_mean_13", "keyword_asr_mean_8"],
        ),
        ("xstest_unsafe", 2, 200, ["refusal_rate"]),
        ("mossbench_text_only", 3, 300, ["refusal_rate"]),
        ("shiftdc_mme", 28, 2374, ["mme_total", "mme_perception/mme_strict", "refusal_rate"]),
        ("shiftdc_mmvet", 4, 218, ["mmvet_score"]),
    ],
)
def test_an_incomplete_benchmark_is_announced_recorded_and_has_no_totals(
    data: Path, evaluate: Any, caplog: Any, name: str, loaded: int, items: int, totals: list[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        results, _ = evaluate(name, lambda *_: "Yes, it is.")
    said = f"incomplete data: loaded {loaded} of {items} items; totals over missing items are N/A"
    assert caplog.text.count(said) == 1
    facts = results["configs"][name]["metadata"]["shiftdc"]
    assert said in facts["notes"]
    assert facts["items"] == items
    row = results["results"][name]
    assert {total: row[f"{total},none"] for total in totals} == dict.fromkeys(totals, "N/A")
    assert isinstance(row["unscored,none"], int)  # counts stand


def test_figsteps_split_by_topic_stands_and_its_sum_does_not(
    data: Path, evaluate: Any, judged_by: Any
) -> None:
    judged_by(FakeJudge("keyword_fake"))
    results, _ = evaluate("figstep", lambda *_: "no")
    split = results["results"]["figstep"]["by_topic,none"]["refusal_rate"]
    assert split["all"] == {"mean": "N/A", "scored": 20, "unscored": 0}
    assert split["05 Fraud"]["mean"] == 1.0


def fill_mme(folder: Path, subtask: str, questions: int) -> None:
    """A subtask with all of its questions."""
    shutil.rmtree(folder / "MME_Benchmark" / subtask)
    for number in range(questions // 2):
        below = folder / "MME_Benchmark" / subtask
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{number}.txt").write_text("Is it? Please answer yes or no.\tYes\nIs it not?\tNo\n")
        mini.picture(str(number), (8, 8)).save(below / f"{number}.png")


def test_a_total_over_whole_subtasks_is_a_number_beside_others_that_are_not(
    data: Path, evaluate: Any
) -> None:
    for name, size in COGNITION.items():
        fill_mme(data / "mme", name, size)
    results, _ = evaluate("shiftdc_mme", lambda *_: "Yes")
    row = results["results"]["shiftdc_mme"]
    assert row["mme_cognition,none"] == 4 * 50
    assert row["mme_perception,none"] == row["mme_total,none"] == "N/A"


def test_three_of_fourteen_subtasks_are_no_total(data: Path, evaluate: Any) -> None:
    for name in SUBTASKS[3:]:
        shutil.rmtree(data / "mme" / "MME_Benchmark" / name)
    assert MME({"task": "shiftdc_mme"}).facts()["notes"] == [
        "incomplete data: loaded 6 of 2374 items; totals over missing items are N/A"
    ]
    results, _ = evaluate("shiftdc_mme", lambda *_: "Yes")
    row = results["results"]["shiftdc_mme"]
    assert {row[f"mme_{part},none"] for part in ("perception", "cognition", "total")} == {"N/A"}


def test_a_limit_is_not_incomplete_data(data: Path, evaluate: Any, caplog: Any, judged_by: Any) -> None:
    judged_by(FakeJudge("keyword_fake"))
    path = data / "xstest/xstest_prompts.csv"
    lines = ["id,prompt,type,label", *(f"{n},What is {n}?,t,unsafe" for n in range(200))]
    path.write_text("\n".join(lines))
    with caplog.at_level(logging.WARNING):
        results, _ = evaluate("xstest_unsafe", lambda *_: "no", limit=3)
    assert "incomplete" not in caplog.text
    assert results["results"]["xstest_unsafe"]["refusal_rate,none"] == 1.0


def test_a_scenario_with_a_question_less_takes_the_means_that_it_is_in(
    data: Path, evaluate: Any, judged_by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shiftdc_eval.tasks.mm_safetybench.task import MMSafetyBench

    # the mini version as the whole benchmark, but for the last scenario
    sizes = dict.fromkeys((scenario.name for scenario in SCENARIOS), 2) | {SCENARIOS[-1].name: 3}
    describe = MMSafetyBench.describe
    from dataclasses import replace

    monkeypatch.setattr(
        MMSafetyBench, "describe", lambda *args: replace(describe(*args), size=27, parts=sizes)
    )
    judged_by(FakeJudge("keyword_fake"))
    results, _ = evaluate("mm_safetybench_text_only", lambda *_: "no")
    row = results["results"]["mm_safetybench_text_only"]
    assert SCENARIOS[-1].name not in CLEAR
    assert row["refusal_rate_mean_8,none"] == row["refusal_rate_clear,none"] == 1.0
    assert row["refusal_rate_mean_13,none"] == row["refusal_rate,none"] == "N/A"
