"""`shiftdc-eval judge calibrate`: agreement with human labels, per source."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from shiftdc_eval.cli import main
from shiftdc_eval.errors import ConfigError, DataError
from shiftdc_eval.judges import get_judge
from shiftdc_eval.judges.calibration import calibrate
from shiftdc_eval.judges.labels import Labelled, read_labels
from shiftdc_eval.judges.verdict import Item

NO, YES = "I'm sorry, no.", "Sure, like this."


def labelled(counts: dict[tuple[str, str], int], source: str = "s") -> list[Labelled]:
    """So many responses with this label and this text."""
    return [
        Labelled(Item(f"{label}{n}", "", text), label, source)
        for (label, text), count in counts.items()
        for n in range(count)
    ]


def test_the_numbers_are_those_of_a_worked_example() -> None:
    # 20 + 15 agree, 10 + 5 do not; by chance 25 of 50 would: kappa (0.7 - 0.5) / (1 - 0.5).
    counts = {("complied", YES): 20, ("complied", NO): 5, ("refused", YES): 10, ("refused", NO): 15}
    [found] = calibrate(get_judge("keyword_robust"), labelled(counts), {}).agreements
    assert found.confusion == {
        "complied": {"complied": 20, "refused": 5},
        "refused": {"complied": 10, "refused": 15},
    }
    assert found.accuracy.value == pytest.approx(0.7)
    assert found.kappa.value == pytest.approx(0.4)
    assert found.false_positive_rate.value == pytest.approx(5 / 25)
    assert found.false_negative_rate.value == pytest.approx(10 / 25)
    assert found.kappa.low is not None
    assert found.kappa.high is not None
    assert found.kappa.low < 0.4 < found.kappa.high
    # Wilson's interval for 35 of 50, from its formula.
    assert found.accuracy.low == pytest.approx(0.5625, abs=1e-4)
    assert found.accuracy.high == pytest.approx(0.8090, abs=1e-4)


def test_unscored_verdicts_are_counted_and_left_out() -> None:
    pairs = [
        *labelled({("refused", NO): 3, ("complied", YES): 2}),
        Labelled(Item("x", "", ""), "refused", "s"),
    ]
    [found] = calibrate(get_judge("keyword_robust"), pairs, {}).agreements
    assert (found.scored, found.unscored) == (5, 1)
    assert found.accuracy.value == 1.0


def test_what_cannot_be_computed_is_none() -> None:
    [found] = calibrate(get_judge("keyword_robust"), labelled({("refused", NO): 4}), {}).agreements
    assert found.kappa.value is None
    assert found.false_positive_rate.value is None
    assert found.false_negative_rate.value == 0.0


def test_every_source_has_its_line_and_then_all_together() -> None:
    pairs = labelled({("refused", NO): 2}, "a") + labelled({("complied", NO): 3, ("refused", YES): 1}, "b")
    found = calibrate(get_judge("keyword_robust"), pairs, {}).agreements
    assert [(one.source, one.scored) for one in found] == [("a", 2), ("b", 4), ("all", 6)]
    assert found[2].confusion["refused"] == {"complied": 1, "refused": 2}


def test_a_judge_of_scores_cannot_be_calibrated() -> None:
    with pytest.raises(ConfigError, match="gives scores"):
        calibrate(get_judge("llm_mmvet:model=m"), labelled({("refused", NO): 1}), {})


def test_csv_and_json_lines_are_read_alike(tmp_path: Path) -> None:
    rows = [
        {"text": 'A "quoted",\nlonger answer\u2028here', "human": "full_refusal", "origin": "m1"},
        {"text": "B", "human": "complied", "origin": ""},
    ]
    table, lines = tmp_path / "a.csv", tmp_path / "b.jsonl"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    lines.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    columns = {"response": "text", "label": "human", "source": "origin"}
    for path in (table, lines):
        first, second = read_labels([path], "refusal", columns, {"full_refusal": "refused"})
        assert first.item.response == rows[0]["text"]
        assert (first.label, first.source) == ("refused", "m1")
        assert (second.label, second.source) == ("complied", path.stem)


@pytest.mark.parametrize(
    ("text", "columns", "mapping", "error", "words"),
    [
        ('{"response": "a"}', {}, {}, DataError, "no column 'label'.*--column label"),
        ('{"response": "a", "label": "bad"}', {}, {}, DataError, "label 'bad'.*--map 'bad=VERDICT'"),
        ('{"response": "a", "label": "x"}', {}, {"x": "unsafe"}, ConfigError, "refused, complied"),
        ('{"response": "a", "label": "refused"}', {"colour": "x"}, {}, ConfigError, "unknown column"),
        ("not json", {}, {}, DataError, "JSON Lines"),
        ("[1]", {}, {}, DataError, "JSON object"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    tmp_path: Path,
    text: str,
    columns: dict[str, str],
    mapping: dict[str, str],
    error: type[Exception],
    words: str,
) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(text)
    with pytest.raises(error, match=words):
        read_labels([path], "refusal", columns, mapping)


def test_the_command_prints_a_table_and_attaches_it_to_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"response": "Sorry, no.", "label": "R"}\n{"response": "Sure.", "label": "C"}\n')
    arguments = [
        "calibrate",
        str(path),
        "--judge",
        "keyword_robust",
        "--map",
        "R=refused",
        "--map",
        "C=complied",
    ]
    assert main(["judge", *arguments, "--attach", str(tmp_path), "--json", str(tmp_path / "o.json")]) == 0
    assert "| keyword_robust | labels | 2 | 0 | 100.0 [34.2, 100.0] | 1.00" in capsys.readouterr().out
    attached = json.loads((tmp_path / "calibration_keyword_robust.json").read_text())
    assert attached["labels"] == {"R": "refused", "C": "complied"}
    assert attached["fingerprint"] == get_judge("keyword_robust").fingerprint
    assert json.loads((tmp_path / "o.json").read_text()) == [attached]


XSTEST_MAP = {"1_full_compliance": "complied", "2_full_refusal": "refused", "3_partial_refusal": "refused"}


@pytest.mark.parametrize("name", ["keyword_xstest", "keyword_robust", "keyword_shiftdc"])
def test_the_table_in_the_docs_is_what_is_measured_on_xstest(shared_data: Path, name: str) -> None:
    paths = sorted((shared_data / "xstest" / "completions").glob("*.csv"))
    columns = {"response": "completion", "request": "prompt", "label": "final_label"}
    pairs = read_labels(paths, "refusal", columns, XSTEST_MAP)
    together = calibrate(get_judge(name), pairs, XSTEST_MAP).agreements[-1]
    assert together.scored == 900
    docs = (Path(__file__).parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")
    counts = [str(count) for row in together.confusion.values() for count in row.values()]
    [line] = [line for line in docs.splitlines() if line.startswith(f"| {name} | all |")]
    assert line.endswith("| " + " | ".join(counts) + " |")
