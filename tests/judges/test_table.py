"""`shiftdc-eval judges` shows every judge, with what its own file says."""

from __future__ import annotations

import pytest
import yaml

from shiftdc_eval.cli import main
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.judges.keyword import keyword_judge
from shiftdc_eval.judges.list_cli import card, facts
from shiftdc_eval.judges.registry import JUDGES, get_judge
from shiftdc_eval.judges.rubric import FOLDER as RUBRICS


def test_every_judge_stands_in_the_table_on_two_screens(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["judges"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 60
    assert [name for name in JUDGES if f" {name} " not in shown] == []
    assert all(all(facts(name)) for name in JUDGES)


def test_what_a_judge_gives_and_asks_is_what_it_is() -> None:
    assert facts("keyword_robust")[0] == keyword_judge("robust").kind
    assert facts("llm_strongreject_guarded")[:2] == ("score", "a served model")
    assert facts("local_harmbench")[:2] == ("harm", "a local model")
    assert facts("llm_mm_safetybench_tolerant") == facts("llm_mm_safetybench")


def test_what_a_judge_is_shown_is_what_it_can_be_asked_about() -> None:
    assert facts("keyword_robust")[2] == "-"
    assert facts("llm_vlsbench")[2] == "request, image"
    assert facts("local_llavaguard")[2] == "image alone"
    assert facts("llm_harmbench")[2] == "request, any context"


def test_one_judge_is_shown_with_source_notes_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judges", "llm_vlsbench"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    file = yaml.safe_load((RUBRICS / "vlsbench.yaml").read_text(encoding="utf-8"))
    assert " ".join(file["source"].split()) in shown
    assert " ".join(file["notes"].split()) in shown
    assert "llm_vlsbench_refusal" in shown
    assert "concurrency=16" in shown


@pytest.mark.parametrize("name", [name for name in JUDGES if name.startswith(("keyword_", "llm_"))])
def test_every_setting_that_is_shown_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFTDC_JUDGE_MODEL", "m")
    given = {"languages": "en", "model": "m", "base_url": "http://127.0.0.1/v1", "max_tokens": "9", "as": "x"}
    shown = [one.split("=") for one in card(name)["settings"].split(", ")]
    spec = ";".join(f"{key}={given.get(key, *value)}" for key, *value in shown)
    assert get_judge(f"{name}:{spec}").name == "x"


def test_an_unknown_judge_is_one_short_line_with_the_nearest() -> None:
    for ask in (card, get_judge):
        with pytest.raises(ConfigError, match="keyword_gcg") as caught:
            ask("keyword_gccg")
        assert len(str(caught.value)) < 120
