"""Judges of one benchmark in a run over several tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from shiftdc_eval.tasks.mmvet.task import MMVet
from shiftdc_eval.tasks.mossbench.task import MOSSBench
from shiftdc_eval.tasks.mssbench.task import MSSBench
from shiftdc_eval.tasks.siuo.task import SIUO
from shiftdc_eval.tasks.vlsbench.task import VLSBench

OWN = ["llm_siuo_safe", "llm_siuo_effective", "llm_vlsbench", "llm_mssbench"]
WORDS = ["keyword_robust", "keyword_shiftdc"]


def test_each_judge_is_asked_about_its_own_benchmark_alone(
    mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIFTDC_JUDGES", ",".join(f"{name}:model=m" for name in OWN))
    names = {
        task.info.name: [judge.name for judge in task.judges]
        for task in (
            SIUO({"task": "siuo"}),
            VLSBench({"task": "vlsbench"}),
            MSSBench({"task": "mssbench"}),
            MOSSBench({"task": "mossbench"}),
            MMVet({"task": "shiftdc_mmvet"}),
        )
    }
    assert names == {
        "siuo": ["llm_siuo_safe", "llm_siuo_effective", "siuo_safe_effective", *WORDS],
        "vlsbench": ["llm_vlsbench", "llm_vlsbench_refusal", *WORDS],
        "mssbench": ["llm_mssbench", "llm_mssbench_answered", *WORDS],
        "mossbench": WORDS,
        "shiftdc_mmvet": ["llm_mmvet"],  # the stand-in: SIUO's judge is no grader
    }


def test_another_judge_stands_beside_and_a_second_model_has_columns_of_its_own(
    mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = ["llm_refusal:model=m", "llm_vlsbench:model=m", "llm_vlsbench:model=n;as=mini"]
    monkeypatch.setenv("SHIFTDC_JUDGES", ",".join(specs))
    task = VLSBench({"task": "vlsbench"})
    assert [judge.name for judge in task.judges] == [
        "llm_vlsbench",
        "llm_vlsbench_refusal",
        "mini",
        "mini_refusal",
        "llm_refusal",
    ]
    columns = set(task.metrics())
    assert {"safe_rate", "safe_rate/mini", "safe_warning_rate", "safe_warning_rate/mini_refusal"} <= columns
    assert {"safe_refuse_rate/mini_refusal", "refusal_rate", "asr/mini"} <= columns
