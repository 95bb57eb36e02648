"""`shiftdc-eval judges` shows every judge, with what its own file says."""

from __future__ import annotations

import pytest

from shiftdc_eval.cli import main
from shiftdc_eval.judges.keyword import keyword_judge
from shiftdc_eval.judges.list_cli import facts
from shiftdc_eval.judges.registry import JUDGES


def test_every_judge_stands_in_the_table_with_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judges"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in JUDGES if f" {name} " not in shown] == []
    assert all(all(facts(name)) for name in JUDGES)


def test_what_a_judge_gives_and_asks_is_what_it_is() -> None:
    assert facts("keyword_robust")[0] == keyword_judge("robust").kind
    assert facts("llm_strongreject_guarded")[:2] == ("score", "a served model")
    assert facts("local_harmbench")[:2] == ("harm", "a model on this machine")
    assert facts("llm_mm_safetybench_tolerant") == facts("llm_mm_safetybench")
