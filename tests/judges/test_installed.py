"""Judges that other installed packages bring along, by real metadata on the path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from stored_run import row, samples, write_run

from shiftdc_eval.cli import main
from shiftdc_eval.core.errors import ConfigError, JudgeError
from shiftdc_eval.judges import Item, get_judge

CODE = """
from shiftdc_eval.judges import Verdict

class Length:
    kind = "refusal"
    name = "whatever"

    def __init__(self, limit="10"):
        self.limit = int(limit)
        self.fingerprint = f"length {limit}"

    def judge(self, items):
        short = [len(item.response or "") < self.limit for item in items]
        return [Verdict(kind="refusal", value="refused" if one else "complied") for one in short]
"""


def install(folder: Path, distribution: str, code: str, points: dict[str, str], version: str = "1.2") -> None:
    """A package as pip leaves it: a module and a dist-info folder with entry points."""
    module = distribution.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = "".join(f"{name} = {module}:{what}\n" for name, what in points.items())
    (info / "entry_points.txt").write_text(f"[shiftdc_eval.judges]\n{lines}")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    for name in ("my_length", "other_judges", "my_judges"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


def test_an_installed_judge_is_named_set_and_asked_like_ours(site: Path) -> None:
    install(site, "my-length", CODE, {"length": "Length"})
    items = [Item("a", "", "Short."), Item("b", "", "A longer answer.")]
    assert [verdict.value for verdict in get_judge("length").judge(items)] == ["refused", "complied"]
    assert [verdict.value for verdict in get_judge("length:limit=3").judge(items)] == ["complied"] * 2
    assert get_judge("length").name == "length"
    assert get_judge("length:as=mine").name == "mine"


def test_a_record_names_distribution_and_version_and_a_rule_costs_nothing(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "my-length", CODE, {"length": "Length"})
    folder = write_run(tmp_path / "run", [row(1, "Short."), row(2, "A longer answer.")])
    assert main(["judge", str(folder), "--judge", "length"]) == 0
    records = [one["shiftdc"]["verdicts"]["length"] for one in samples(folder)]
    assert [(one["value"], one["model"]) for one in records] == [
        ("refused", "my-length 1.2"),
        ("complied", "my-length 1.2"),
    ]
    assert [(one["tokens_in"], one["price"]) for one in records] == [(0, 0.0)] * 2
    assert "2 judged" in capsys.readouterr().out


def test_another_version_or_setting_is_another_judge(site: Path, tmp_path: Path) -> None:
    install(site, "my-length", CODE, {"length": "Length"})
    prints = {get_judge("length").fingerprint, get_judge("length:limit=3").fingerprint}
    (site / "my_length-1.2.dist-info").rename(site / "my_length-1.3.dist-info")
    metadata = site / "my_length-1.3.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.2", "1.3"))
    prints.add(get_judge("length").fingerprint)
    assert len(prints) == 3
    assert all(len(one) == 64 for one in prints)


def test_nothing_of_a_package_is_imported_before_it_is_asked_for(site: Path) -> None:
    install(site, "my-length", CODE, {"length": "Length"})
    script = (
        "import sys\n"
        "from shiftdc_eval.judges import get_judge\n"
        "from shiftdc_eval.cli import main\n"
        "main(['judges']); get_judge('keyword_robust')\n"
        "print('before', 'my_length' in sys.modules)\n"
        "get_judge('length')\n"
        "print('after', 'my_length' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(site)!r})\n{script}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-2:] == ["before False", "after True"]


def test_a_builtin_name_brought_again_is_refused_with_the_distribution(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    install(site, "my-length", CODE, {"keyword_gcg": "Length", "length": "Length"})
    with pytest.raises(ConfigError) as caught:
        get_judge("keyword_gcg")
    assert "my-length 1.2 brings another of that name" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert get_judge("keyword_robust").name == "keyword_robust"
    assert get_judge("length").name == "length"
    main(["judges"])
    assert "refused: judge 'keyword_gcg'" in " ".join(capsys.readouterr().out.split())


def test_one_name_of_two_distributions_is_refused_with_both(site: Path) -> None:
    install(site, "my-length", CODE, {"length": "Length"})
    install(site, "other-judges", CODE, {"length": "Length"}, version="0.1")
    with pytest.raises(ConfigError, match="my-length 1.2 and other-judges 0.1: uninstall one"):
        get_judge("length")


def test_a_package_that_cannot_be_imported_is_named_when_asked_for_and_breaks_no_other(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "my-length", CODE, {"length": "Length"})
    install(site, "other-judges", "import no_such_module_here\n", {"broken": "Judge"}, version="0.1")
    assert get_judge("length").name == "length"
    assert main(["judges"]) == 0
    with pytest.raises(ConfigError) as caught:
        get_judge("broken")
    assert str(caught.value) == (
        "judge 'broken' of other-judges 0.1 (other_judges:Judge) cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_module_here'"
    )


@pytest.mark.parametrize(
    ("spec", "code", "words"),
    [
        ("odd", "odd = 3", "neither a class nor a function"),
        ("odd", "def odd():\n    return object()", "is no judge: it has no kind"),
        (
            "odd",
            "class odd:\n    kind, fingerprint = 'mood', 'x'\n    def judge(self, items):\n        return []",
            "its kind is 'mood', not refusal, harm, score",
        ),
        ("odd:colour=red", "def odd(shade=''):\n    return object()", "unexpected keyword argument 'colour'"),
        ("odd", "def odd():\n    raise ValueError('bad\\nday')", "cannot be made: ValueError: bad"),
    ],
)
def test_what_is_no_judge_is_one_line(site: Path, spec: str, code: str, words: str) -> None:
    install(site, "other-judges", code, {"odd": "odd"})
    with pytest.raises(ConfigError) as caught:
        get_judge(spec)
    assert words in str(caught.value)
    assert "other-judges 1.2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_verdicts_are_the_packages_fault_and_named_so(site: Path) -> None:
    install(
        site, "my-length", CODE.replace("for one in short]", "for one in short[1:]]"), {"length": "Length"}
    )
    with pytest.raises(JudgeError, match="length of my-length 1.2 gave 0 refusal verdicts for 1 answers"):
        get_judge("length").judge([Item("a", "", "Short.")])


def test_the_table_lists_it_with_distribution_and_version(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(site, "my-length", CODE, {"length": "Length"})
    main(["judges"])
    [line] = [line for line in capsys.readouterr().out.splitlines() if " length " in line]
    assert "my-length 1.2" in line


def test_an_unknown_name_is_told_of_installed_ones_too(site: Path) -> None:
    install(site, "my-length", CODE, {"length_of_answer": "Length"})
    with pytest.raises(ConfigError, match="nearest: length_of_answer"):
        get_judge("length_of_anser")


def test_the_documented_example_is_a_judge(site: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")
    [code] = [part.split("```", 1)[0] for part in text.split("```python\n")[1:]]
    assert 'answer_length = "my_judges:AnswerLength"' in text
    install(site, "my-judges", code, {"answer_length": "AnswerLength"})
    [verdict] = get_judge("answer_length:unit=characters").judge([Item("a", "", "Short.")])
    assert (verdict.value, verdict.model) == (6.0, "my-judges 1.2")
