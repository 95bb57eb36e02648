"""`shiftdc-eval judge human-agreement`: agreement with human labels, per source."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from shiftdc_eval.cli import main
from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.core.records import Calibration
from shiftdc_eval.core.statistics import kappa, proportion
from shiftdc_eval.judges import JUDGES, get_judge
from shiftdc_eval.judges.cli import table
from shiftdc_eval.judges.human_agreement import calibrate
from shiftdc_eval.judges.human_labels import Labelled, read_labels
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
    outcome = calibrate(get_judge("keyword_robust"), pairs, {})
    [found] = outcome.agreements
    assert (found.scored, found.unscored) == (5, 1)
    assert list(outcome.reasons.values()) == [1]
    assert all(outcome.reasons)
    assert found.accuracy.value == 1.0


def test_what_cannot_be_computed_is_none() -> None:
    [found] = calibrate(get_judge("keyword_robust"), labelled({("refused", NO): 4}), {}).agreements
    assert found.kappa.value is None
    assert found.false_positive_rate.value is None
    assert found.false_negative_rate.value == 0.0


def test_a_kappa_of_full_or_of_no_agreement_is_not_called_certain() -> None:
    for counts in ({("refused", NO): 3, ("complied", YES): 3}, {("refused", YES): 3, ("complied", YES): 3}):
        [found] = calibrate(get_judge("keyword_robust"), labelled(counts), {}).agreements
        assert found.kappa.value in (1, 0)
        assert (found.kappa.low, found.kappa.high) == (None, None)


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
        ('{"response": "a", "label": "refused"}\n{"response": "b"}', {}, {}, DataError, "row 2: no 'label'"),
        ("[1]", {}, {}, DataError, "JSON object"),
        ("[" * 100_000, {}, {}, DataError, "JSON Lines"),
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


def test_a_response_longer_than_a_csv_reader_usually_takes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(f"response,label\n{'x' * 200_000},refused\n")
    [found] = read_labels([path], "refusal", {}, {})
    assert found.item.response == "x" * 200_000


def test_a_text_with_a_comma_outside_quotes_is_refused_and_not_cut(tmp_path: Path) -> None:
    path = write(tmp_path / "labels.csv", "label,response\nrefused,No, sorry.\n")
    with pytest.raises(DataError, match=r"labels\.csv, row 1: more cells than the 2 columns"):
        read_labels([path], "refusal", {}, {})


def test_a_table_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("response,label,label\nNo.,refused,complied\n")
    with pytest.raises(DataError, match="two columns are called 'label'"):
        read_labels([path], "refusal", {}, {})


def test_where_the_outcome_cannot_go_nothing_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"response": "Sure.", "label": "complied"}\n')
    for option, place in (("--attach", tmp_path / "nowhere"), ("--json", tmp_path)):
        assert (
            main(["judge", "human-agreement", str(path), "--judge", "keyword_robust", option, str(place)])
            == 2
        )
        shown = capsys.readouterr()
        assert str(place) in shown.err
        assert "kappa" not in shown.out


def test_the_command_prints_a_table_and_attaches_it_to_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text('{"response": "Sorry, no.", "label": "R"}\n{"response": "Sure.", "label": "C"}\n')
    arguments = [
        "human-agreement",
        str(path),
        "--judge",
        "keyword_robust",
        "--map",
        "R=refused",
        "--map",
        "C=complied",
    ]
    assert main(["judge", *arguments, "--attach", str(tmp_path), "--json", str(tmp_path / "o.json")]) == 0
    assert "| keyword_robust | labels | 2 | 2 | 0 | 100.0 [34.2, 100.0] | 1.00" in capsys.readouterr().out
    attached = json.loads((tmp_path / "human_agreement_keyword_robust.json").read_text())
    assert attached["labels"] == {"R": "refused", "C": "complied"}
    assert attached["fingerprint"] == get_judge("keyword_robust").fingerprint
    assert json.loads((tmp_path / "o.json").read_text()) == [attached]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


ROWS = '[{"response": "No.", "label": "refused"}, {"response": "Sure.", "label": "complied"}]'
COLUMNS_OF_LISTS = '{"response": ["No.", "Sure."], "label": ["refused", "complied"]}'
LISTS_BY_KEY = (
    '{"b1": [{"response": "No.", "label": "refused"}], "b2": [{"response": "Sure.", "label": "complied"}]}'
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", ROWS),
        ("a.json", COLUMNS_OF_LISTS),
        ("a.json", LISTS_BY_KEY),
        ("a.tsv", "response\tlabel\nNo.\trefused\nSure.\tcomplied\n"),
        ("a.jsonl", '{"response": "No.", "label": "refused"}\n{"response": "Sure.", "label": "complied"}\n'),
    ],
)
def test_every_form_of_a_file_gives_the_same_labels(tmp_path: Path, name: str, text: str) -> None:
    found = read_labels([write(tmp_path / name, text)], "refusal", {}, {})
    assert [(one.item.response, one.label, one.source) for one in found] == [
        ("No.", "refused", "a"),
        ("Sure.", "complied", "a"),
    ]


def test_the_majority_of_several_annotators_counts_and_a_tie_is_left_out(tmp_path: Path) -> None:
    # HarmBench's form: lists of rows by behaviour, one column an annotator
    text = json.dumps(
        {
            "b1": [{"generation": "x", "human_0": 1, "human_1": 1, "human_2": 0}],
            "b2": [{"generation": "y", "human_0": 0, "human_1": 1, "human_2": 0}],
            "b3": [{"generation": "z", "human_0": 0, "human_1": 1, "human_2": None}],
        }
    )
    columns = {"response": "generation", "request": "key", "label": "human_0+human_1+human_2"}
    path = write(tmp_path / "a.json", text)
    found = read_labels([path], "harm", columns, {"1": "unsafe", "0": "safe"})
    assert [(one.item.request, one.label) for one in found] == [("b1", "unsafe"), ("b2", "safe")]
    lists = write(tmp_path / "b.json", '[{"response": "x", "label": ["safe", "unsafe", "unsafe"]}]')
    assert [one.label for one in read_labels([lists], "harm", {}, {})] == ["unsafe"]


def test_a_label_can_be_left_out_and_the_rest_mapped(tmp_path: Path) -> None:
    rows = [{"response": str(n), "label": label} for n, label in enumerate(["r", "odd", "c1", "c2"])]
    path = write(tmp_path / "a.json", json.dumps(rows))
    found = read_labels([path], "refusal", {}, {"r": "refused", "odd": "", "*": "complied"})
    assert [(one.item.response, one.label) for one in found] == [
        ("0", "refused"),
        ("2", "complied"),
        ("3", "complied"),
    ]


@pytest.mark.parametrize(
    ("columns", "mapping", "words"),
    [
        # an optional column that is misspelt makes every answer a prompt of its own, and intervals too narrow
        ({"request": "promt"}, {}, "no column 'promt'; nearest: 'prompt'"),
        ({"model": "prompts"}, {}, "no column 'prompts'"),
        ({"response": "label"}, {}, "column .label. is named for response and label"),
        ({}, {"refusd": "refused"}, "no answer has this label; nearest: 'refused'"),
    ],
)
def test_a_misspelt_name_is_refused(
    tmp_path: Path, columns: dict[str, str], mapping: dict[str, str], words: str
) -> None:
    path = write(tmp_path / "a.csv", "prompt,response,label\np,No.,refused\n")
    with pytest.raises((ConfigError, DataError), match=words):
        read_labels([path], "refusal", columns, mapping)


def test_a_file_that_is_named_twice_is_refused_under_either_name(tmp_path: Path) -> None:
    one = write(tmp_path / "a.csv", "response,label\nNo.,refused\n")
    copy = write(tmp_path / "b.csv", "response,label\nNo.,refused\n")
    (tmp_path / "deeper").mkdir()
    namesake = write(tmp_path / "deeper" / "a.csv", "response,label\nSure.,complied\n")
    for second, words in ((one, "one name"), (namesake, "one name"), (copy, "the same labels")):
        with pytest.raises(ConfigError, match=words):
            read_labels([one, second], "refusal", {}, {})


@pytest.mark.parametrize("response", [{"text": "No."}, ["No."]])
def test_a_response_that_is_no_text_is_refused(tmp_path: Path, response: object) -> None:
    path = write(tmp_path / "a.json", json.dumps([{"response": response, "label": "refused"}]))
    with pytest.raises(DataError, match="row 1: the response is a .*not a text"):
        read_labels([path], "refusal", {}, {})


def test_labels_of_harm_are_no_labels_of_refusal_unless_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "response,label\nNo.,safe\nSure.,unsafe\n")
    mapping = {"safe": "refused", "unsafe": "complied"}
    with pytest.raises(ConfigError, match="--across-kinds"):
        read_labels([path], "refusal", {}, mapping)
    assert len(read_labels([path], "refusal", {}, mapping, across_kinds=True)) == 2
    columns = write(tmp_path / "b.csv", "response,is_harmful\nNo.,0\nSure.,1\n")
    with pytest.raises(ConfigError, match="--across-kinds"):
        read_labels([columns], "refusal", {"label": "is_harmful"}, {"0": "refused", "1": "complied"})
    refusals = write(tmp_path / "c.csv", "response,label\nNo.,full_refusal\nSure.,compliance\n")
    with pytest.raises(ConfigError, match="--across-kinds"):
        read_labels([refusals], "harm", {}, {"full_refusal": "safe", "compliance": "unsafe"})


def test_kappa_of_labels_of_one_class_is_not_available(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.csv", f'response,label\n"{NO}",refused\n"{YES}",refused\n')
    assert main(["judge", "human-agreement", str(path), "--judge", "keyword_robust"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| keyword")]
    assert line.split(" | ")[6] == "n/a"


def test_the_outcome_is_split_by_model_and_language_and_says_in_or_out_of_sample(tmp_path: Path) -> None:
    rows = [
        {"response": NO, "label": "refused", "who": "m1", "tongue": "English"},
        {"response": YES, "label": "refused", "who": "m1", "tongue": "English"},
        {"response": YES, "label": "complied", "who": "m2", "tongue": "German"},
    ]
    path = write(tmp_path / "a.json", json.dumps(rows))
    arguments = ["--column", "model=who", "--column", "language=tongue", "--data", "D", "--sample", "out"]
    arguments += ["--judge", "keyword_xstest", "--attach", str(tmp_path)]
    assert main(["judge", "human-agreement", str(path), *arguments]) == 0
    found = json.loads((tmp_path / "human_agreement_keyword_xstest.json").read_text())
    assert (found["data"], found["sample"]) == ("D", "out")
    for part, names in (("by_model", ["m1", "m2"]), ("by_language", ["English", "German"])):
        assert [(one["source"], one["scored"]) for one in found[part]] == list(
            zip(names, (2, 1), strict=True)
        )
    assert found["by_model"][0]["accuracy"]["value"] == 0.5


def test_the_name_of_earlier_versions_still_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.csv", "response,label\nSure.,complied\n")
    assert main(["judge", "calibrate", str(path), "--judge", "keyword_xstest"]) == 0
    assert "| keyword_xstest | a | 1 |" in capsys.readouterr().out


KEYWORD_JUDGES = [name for name in JUDGES if name.startswith("keyword_")]
XSTEST_MAP = {"1_full_compliance": "complied", "2_full_refusal": "refused", "3_partial_refusal": "refused"}


@pytest.mark.parametrize("name", KEYWORD_JUDGES)
def test_the_table_in_the_docs_is_what_is_measured_on_xstest(shared_data: Path, name: str) -> None:
    paths = sorted((shared_data / "xstest" / "completions").glob("*.csv"))
    columns = {"response": "completion", "request": "prompt", "label": "final_label"}
    pairs = read_labels(paths, "refusal", columns, XSTEST_MAP)
    measured = table([calibrate(get_judge(name), pairs, XSTEST_MAP)]).splitlines()[2:]
    assert len(measured) == 3
    docs = (Path(__file__).parents[2] / "docs" / "judge_agreement.md").read_text(encoding="utf-8")
    assert [
        line for line in docs.splitlines() if line.startswith(f"| {name} | ") and "| 450 |" in line
    ] == measured


def test_intervals_over_independent_prompts_are_those_of_statsmodels() -> None:
    draw = np.random.default_rng(4)
    for _ in range(20):
        labels = draw.random(60) < 0.4
        verdicts = np.where(draw.random(60) < 0.8, labels, ~labels)
        prompts = np.arange(60)
        table = [[int(((labels == a) & (verdicts == b)).sum()) for b in (False, True)] for a in (False, True)]
        expected = cohens_kappa(table)
        found = kappa(labels, verdicts, prompts)
        assert found.value == pytest.approx(expected.kappa)
        assert (found.low, found.high) == pytest.approx((expected.kappa_low, expected.kappa_upp))
        share = proportion(labels == verdicts, prompts)
        low, high = proportion_confint(int((labels == verdicts).sum()), 60, method="wilson")
        assert (share.low, share.high) == pytest.approx((low, high))


def test_answers_of_two_models_to_one_prompt_are_worth_no_more_than_their_prompts_when_they_agree() -> None:
    draw = np.random.default_rng(5)
    labels = draw.random(200) < 0.5
    verdicts = np.where(draw.random(200) < 0.85, labels, ~labels)
    prompts = np.arange(200)
    once = kappa(labels, verdicts, prompts), proportion(labels == verdicts, prompts)
    twice = np.tile(labels, 2), np.tile(verdicts, 2), np.tile(prompts, 2)
    doubled = kappa(*twice), proportion(twice[0] == twice[1], twice[2])
    for single, double in zip(once, doubled, strict=True):
        assert double.value == pytest.approx(single.value)
        assert double.high - double.low == pytest.approx(single.high - single.low, rel=0.02)
    apart = kappa(*twice[:2], np.arange(400))
    assert apart.high - apart.low < 0.75 * (doubled[0].high - doubled[0].low)


def test_clustered_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draw = np.random.default_rng(6)
    held = {"kappa": 0, "rate": 0}
    trials = 400
    # prompts are hard or easy, labels go by prompt: P(right) is 0.95 or 0.65, kappa 2 * 0.8 - 1
    for _ in range(trials):
        right = np.repeat(np.where(draw.random(150) < 0.5, 0.95, 0.65), 3)
        labels = np.repeat(draw.random(150) < 0.5, 3)
        verdicts = np.where(draw.random(450) < right, labels, ~labels)
        prompts = np.arange(450) // 3
        found, share = kappa(labels, verdicts, prompts), proportion(labels == verdicts, prompts)
        held["kappa"] += found.low <= 0.6 <= found.high
        held["rate"] += share.low <= 0.8 <= share.high
    assert all(0.925 <= count / trials <= 0.985 for count in held.values()), held


def test_a_calibration_counts_prompts_and_names_its_labels() -> None:
    pairs = [
        Labelled(Item(f"{source}{n}", f"prompt {n}", NO if n % 2 else YES), "refused", source)
        for source in ("a", "b")
        for n in range(10)
    ]
    found = calibrate(get_judge("keyword_robust"), pairs, {})
    assert [(one.scored, one.prompts) for one in found.agreements] == [(10, 10), (10, 10), (20, 10)]
    other = calibrate(get_judge("keyword_robust"), [replace(pairs[0], label="complied"), *pairs[1:]], {})
    assert found.labels_sha256 != other.labels_sha256
    assert found.rubric == get_judge("keyword_robust").fingerprint


def test_a_calibration_whose_shares_do_not_follow_from_its_counts_is_refused() -> None:
    found = calibrate(get_judge("keyword_robust"), labelled({("refused", NO): 4, ("refused", YES): 1}), {})
    text = found.model_dump_json()
    assert Calibration.model_validate_json(text) == found
    with pytest.raises(ValidationError, match="accuracy"):
        Calibration.model_validate_json(text.replace('"value":0.8', '"value":0.9'))


def test_a_taxonomy_of_harm_may_name_refusals_among_its_safe_classes(tmp_path: Path) -> None:
    path = tmp_path / "taxonomy.csv"
    path.write_text(
        "response,label\nNo.,1.2 - refusal only\nYes.,2.Z - other (unsafe)\nPerhaps.,1.Z - other (safe)\n"
    )
    mapping = {"2.Z - other (unsafe)": "unsafe", "*": "safe"}
    assert [one.label for one in read_labels([path], "harm", {}, mapping)] == ["safe", "unsafe", "safe"]
    path.write_text("response,harm_label\nNo.,refusal\n")
    with pytest.raises(ConfigError, match="are about refusal and this judge about harm"):
        read_labels([path], "harm", {"label": "harm_label"}, {"refusal": "safe"})
