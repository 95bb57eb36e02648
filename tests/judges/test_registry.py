"""Judges are found by name, configured by spec, and identified by fingerprint."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.judges import JUDGES, Item, get_judge, judges_for
from shiftdc_eval.judges import keyword as keyword_module

KEYWORD_JUDGES = [name for name in JUDGES if name.startswith("keyword_")]


def test_every_list_of_the_package_is_a_judge() -> None:
    lists = "adashield gcg malicious_instruct multilingual refusal_direction robust shiftdc vlguard xstest"
    assert sorted(KEYWORD_JUDGES) == [f"keyword_{name}" for name in lists.split()]


@pytest.mark.parametrize("name", KEYWORD_JUDGES)
def test_a_keyword_judge_carries_its_name_kind_and_a_stable_fingerprint(name: str) -> None:
    judge, again = get_judge(name), get_judge(name)
    assert (judge.name, judge.kind) == (name, "refusal")
    assert len(judge.fingerprint) == 64
    assert judge.fingerprint == again.fingerprint


def test_two_lists_never_share_a_fingerprint() -> None:
    prints = {get_judge(name).fingerprint for name in KEYWORD_JUDGES}
    assert len(prints) == len(KEYWORD_JUDGES)


def test_the_fingerprint_follows_the_keywords_and_not_the_notes(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = keyword_module.load_list("gcg")
    before = get_judge("keyword_gcg").fingerprint
    monkeypatch.setattr(keyword_module, "FOLDER", tmp_path)
    path = keyword_module.FOLDER / "gcg.yaml"
    path.write_text(yaml.safe_dump({**data, "notes": "reworded", "source": "elsewhere"}))
    assert get_judge("keyword_gcg").fingerprint == before
    path.write_text(yaml.safe_dump({**data, "keywords": [*data["keywords"], "one more"]}))
    assert get_judge("keyword_gcg").fingerprint != before


def test_an_unknown_judge_is_one_line_that_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        get_judge("keyword_adashild")
    assert "nearest: keyword_adashield" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("keyword_gcg:colour=red", "unknown setting 'colour'"),
        ("llm_figstep:modell=m", "unknown setting 'modell'; did you mean model?"),
        ("keyword_gcg:colour", "not of the form key=value"),
        ("keyword_gcg:as=a;as=b", "given twice"),
        ("keyword_gcg:as=my judge", "as='my judge' cannot be a column's name"),
        ("keyword_gcg:as=Mine", "as='Mine' cannot be a column's name"),
        ("keyword_gcg:as=a/b", "as='a/b' cannot be a column's name"),
        ("keyword_gcg:as=", "as='' cannot be a column's name"),
        ("llm_figstep:model=m;as=a|b", "lower-case letters"),
    ],
)
def test_a_wrong_setting_is_named(spec: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        get_judge(spec)


def test_as_renames_the_column_and_nothing_else() -> None:
    judge = get_judge("keyword_gcg:as=prefixes-2.1")
    assert judge.name == "prefixes-2.1"
    assert judge.fingerprint == get_judge("keyword_gcg").fingerprint


def test_the_tasks_judges_are_used_unless_the_environment_names_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SHIFTDC_JUDGES", raising=False)
    assert [judge.name for judge in judges_for(["keyword_robust", "keyword_gcg"])] == [
        "keyword_robust",
        "keyword_gcg",
    ]
    monkeypatch.setenv("SHIFTDC_JUDGES", " keyword_xstest , keyword_gcg:as=mine ")
    assert [judge.name for judge in judges_for(["keyword_robust"])] == ["keyword_xstest", "mine"]


def test_two_judges_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFTDC_JUDGES", "keyword_gcg,keyword_xstest:as=keyword_gcg")
    with pytest.raises(ConfigError, match="SHIFTDC_JUDGES"):
        judges_for([])


def test_verdicts_come_in_the_order_of_the_items() -> None:
    items = [Item("a", "", "Sure."), Item("b", "", None), Item("c", "", "I'm sorry.")]
    values = [verdict.value for verdict in get_judge("keyword_robust").judge(items)]
    assert values == ["complied", None, "refused"]


def test_keyword_judges_import_nothing_heavy() -> None:
    code = (
        "import sys; from shiftdc_eval.judges import get_judge, Item;"
        "get_judge('keyword_robust').judge([Item('a', '', 'Sure.')]);"
        "print([m for m in ('torch', 'transformers', 'openai', 'lmms_eval', 'datasets', 'sklearn') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
