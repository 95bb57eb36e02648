"""What the board knows of its judges: what judging cost, and how far they agree with people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from made import Made, sha, write_rows

from shiftdc_eval.board.build import build, generate
from shiftdc_eval.board.cell_files import CELLS
from shiftdc_eval.board.check import check
from shiftdc_eval.board.ingest.join import join
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.records import Calibration, JudgeCost, LabelAgreement, Rate, SampleField

LLM = {"llm": ("harm", 0.3)}
UNCALIBRATED = "No held-out comparison of this judge with human labels"


def write_with_cost(made: Made, folder: Path, **cost: Any) -> Path:
    """A run whose verdicts say what they cost."""
    path = made.write(folder)
    rows = made.rows()
    for row in rows:
        for verdict in row["shiftdc"]["verdicts"].values():
            verdict |= {"seconds": 0.1, "tokens_in": 100, "tokens_out": 7, "price": 0.00027} | cost
            verdict |= {"raw": "Verdict: A SECRET TEXT", "rubric": sha("rubric")}
    write_rows(path, rows)
    return path


def column(board: Path, name: str = "llm") -> Any:
    [cell] = CELLS.all_of(board)
    [found] = [judge for judge in cell.judges if judge.name == name]
    return found


def agreement(source: str, table: tuple[int, int, int, int], prompts: int | None = None) -> LabelAgreement:
    no, alarm, miss, yes = table

    def share(count: int, total: int) -> Rate:
        return Rate(value=count / total, low=0.0, high=1.0)

    return LabelAgreement(
        source=source,
        scored=sum(table),
        unscored=1,
        prompts=prompts or sum(table),
        accuracy=share(no + yes, sum(table)),
        kappa=Rate(value=0.5, low=0.25, high=0.75),
        false_positive_rate=share(alarm, no + alarm),
        false_negative_rate=share(miss, miss + yes),
        confusion={"safe": {"safe": no, "unsafe": alarm}, "unsafe": {"safe": miss, "unsafe": yes}},
    )


def calibration(
    source: str = "people",
    judge: str = "llm",
    fingerprint: str = "llm",
    sample: Literal["in", "out", ""] = "out",
) -> Calibration:
    return Calibration(
        judge=judge,
        fingerprint=sha(fingerprint),
        kind="harm",
        labels={},
        labels_sha256=sha(source),
        sample=sample,
        agreements=[agreement(source, (40, 10, 5, 45), prompts=50)],
    )


def attach(found: Calibration, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"calibration_{found.judge}.json"
    path.write_text(found.model_dump_json(indent=1), encoding="utf-8")


def test_a_cell_says_what_its_verdicts_cost_and_by_which_rubric_and_holds_no_reply(
    results: Path, board: Path
) -> None:
    write_with_cost(Made(size=10, judges=LLM), results)
    build([results], board)
    found = column(board)
    assert found.cost == JudgeCost(seconds=1.0, tokens_in=1000, tokens_out=70, price=0.0027)
    assert found.rubric == sha("rubric")
    assert "SECRET" not in "".join(path.read_text() for path in board.rglob("*.*"))
    text = "Judging took 0.1 s, 100.0 prompt and 7.0 reply tokens an answer; 0.0027 USD for 10 answers."
    for page in ("leaderboard.md", "index.html"):
        assert text in (board / page).read_text()
    assert f"judged by llm@{sha('llm')[:8]} for 0.0027 USD" in (board / "index.html").read_text()
    [measure] = json.loads((board / "index.json").read_text())["cells"][0]["measures"]
    assert measure["cost"]["price"] == 0.0027


def test_one_unknown_price_makes_the_sum_unknown_and_never_smaller(results: Path, board: Path) -> None:
    path = write_with_cost(Made(size=10, judges=LLM), results)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[3]["shiftdc"]["verdicts"]["llm"]["price"] = None
    write_rows(path, rows)
    build([results], board)
    assert column(board).cost == JudgeCost(seconds=1.0, tokens_in=1000, tokens_out=70, price=None)
    assert (
        "reply tokens an answer; an unknown price for 10 answers." in (board / "leaderboard.md").read_text()
    )


def test_verdicts_that_do_not_say_what_they_cost_leave_the_cost_out(results: Path, board: Path) -> None:
    Made(size=10, judges=LLM).write(results)
    build([results], board)
    assert column(board).cost is None
    assert "Judging took" not in (board / "leaderboard.md").read_text()


def test_a_judge_without_a_model_has_no_line_on_its_cost(results: Path, board: Path) -> None:
    write_with_cost(
        Made(size=10, judges={"keyword_robust": ("refusal", 0.4)}),
        results,
        tokens_in=0,
        tokens_out=0,
        price=0,
    )
    build([results], board)
    assert column(board, "keyword_robust").cost.price == 0
    assert "Judging took" not in (board / "leaderboard.md").read_text()


def test_joining_the_same_results_again_counts_no_cost_twice(results: Path, board: Path) -> None:
    write_with_cost(Made(size=7, judges=LLM), results)
    build([results], board)
    assert build([results], board) == []


def test_answers_judged_later_add_their_cost(results: Path, board: Path, tmp_path: Path) -> None:
    path = write_with_cost(Made(size=9, judges=LLM), results)
    build([results], board)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        second = {**row["shiftdc"]["verdicts"]["llm"], "judge": sha("other"), "price": 0.001}
        row["shiftdc"]["verdicts"]["llm_2"] = second
        SampleField(**row["shiftdc"])
    write_rows(path, rows)
    assert len(build([results], board)) == 1
    assert column(board, "llm_2").cost.price == 0.009
    assert column(board).cost.price == pytest.approx(9 * 0.00027)


def test_an_answer_judged_again_costs_what_the_verdict_that_counts_cost(results: Path, board: Path) -> None:
    made = Made(size=10, judges=LLM, unscored={"llm": [4]})
    path = write_with_cost(made, results)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    [first] = join([results])
    rows[4]["shiftdc"]["verdicts"]["llm"] |= {"value": "safe", "reason": "", "price": 0.01}
    write_rows(path, rows)
    [again] = join([results], [first])
    assert first.judges[0].cost == JudgeCost(seconds=1.0, tokens_in=1000, tokens_out=70, price=0.0027)
    assert again.judges[0].cost is not None
    assert again.judges[0].cost.price == pytest.approx(9 * 0.00027 + 0.01)


def test_an_attached_calibration_stands_beside_every_number_of_its_judge(results: Path, board: Path) -> None:
    for defense in ("none", "shiftdc"):
        Made(size=10, defense=defense, judges=LLM | {"keyword_robust": ("refusal", 0.5)}).write(results)
    attach(calibration(), results)
    build([results], board)
    assert [path.name for path in (board / "judges").iterdir()] == [
        f"llm-{sha('llm')[:8]}-{sha('people')[:8]}.json"
    ]
    said = (
        f"Judge against human labels, held out (people {sha('people')[:8]}; 100 answers to 50 prompts, 1 unscored): 85.0 (0.0 to 100.0) % "
        "equal, κ 0.50 (0.25 to 0.75), misses 10.0 % of harmful answers, takes 20.0 % of other answers for one."
    )
    for page in ("leaderboard.md", "index.html"):
        text = (board / page).read_text()
        assert text.count(said) == 1
        assert text.count(UNCALIBRATED) == 1, "the keyword judge has none, and the page says so"
    assert check(board) == []


def test_a_calibration_can_be_attached_without_new_results(
    results: Path, board: Path, tmp_path: Path
) -> None:
    Made(size=10, judges=LLM).write(results)
    build([results], board)
    assert UNCALIBRATED in (board / "leaderboard.md").read_text()
    attach(calibration(), tmp_path / "calibrated")
    assert build([tmp_path / "calibrated"], board) == []
    assert UNCALIBRATED not in (board / "leaderboard.md").read_text()
    assert check(board) == []


def test_a_calibration_of_a_judge_with_other_settings_says_nothing_of_this_one(
    results: Path, board: Path
) -> None:
    Made(size=10, judges=LLM).write(results)
    attach(calibration(fingerprint="llm with another rubric"), results)
    build([results], board)
    assert UNCALIBRATED in (board / "leaderboard.md").read_text()
    assert json.loads((board / "index.json").read_text())["calibrations"] == []


@pytest.mark.parametrize("sample", ["in", ""])
def test_no_figure_of_a_judge_on_the_answers_it_was_made_from_is_on_the_board(
    results: Path, board: Path, sample: Literal["in", ""]
) -> None:
    Made(size=10, judges=LLM).write(results)
    attach(calibration(sample=sample), results)
    build([results], board)
    for page in ("leaderboard.md", "index.html"):
        text = (board / page).read_text()
        assert UNCALIBRATED in text
        assert "85.0" not in text
    assert json.loads((board / "index.json").read_text())["calibrations"] == []
    assert check(board) == []


def test_the_spread_over_models_and_languages_stands_beside_the_whole(results: Path, board: Path) -> None:
    Made(size=10, judges=LLM).write(results)
    parts = [agreement("m1", (40, 10, 5, 45)), agreement("m2", (40, 10, 5, 45))]
    parts[1] = parts[1].model_copy(update={"kappa": Rate(value=0.91, low=None, high=None)})
    attach(calibration().model_copy(update={"by_model": parts, "data": "Two models"}), results)
    build([results], board)
    text = (board / "leaderboard.md").read_text()
    assert f"held out (Two models {sha('people')[:8]}; " in text
    assert "by model κ 0.50 to 0.91 (2)." in text


def test_scores_say_nothing_of_calibration(results: Path, board: Path) -> None:
    Made(size=10, judges={"exact": ("score", 0.7)}).write(results)
    build([results], board)
    assert "human labels" not in (board / "leaderboard.md").read_text()


def test_a_source_of_labels_is_escaped_on_both_pages(results: Path, board: Path) -> None:
    Made(size=10, judges=LLM).write(results)
    attach(calibration(source="<script>alert(1)</script> [x](javascript:1)"), results)
    build([results], board)
    assert "<script>alert" not in (board / "index.html").read_text()
    markdown = (board / "leaderboard.md").read_text()
    assert "<script>" not in markdown
    assert "[x](" not in markdown
    assert r"\[x\](" in markdown


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content["agreements"][0]["accuracy"].update(value=0.99), "accuracy"),
        (lambda content: content["agreements"][0].update(scored=99), "confusion"),
        (lambda content: content.update(fingerprint=sha("another")), "the content belongs at judges/"),
        (lambda content: content.update(kind="score"), "kind"),
        (lambda content: content.update(raw="text"), "raw"),
        (lambda content: content.update(agreements=[]), "agreements"),
    ],
)
def test_a_changed_calibration_is_refused(results: Path, board: Path, change: Any, words: str) -> None:
    Made(size=10, judges=LLM).write(results)
    attach(calibration(), results)
    build([results], board)
    [path] = (board / "judges").iterdir()
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    [problem] = check(board)
    assert path.name in problem
    assert words in problem
    with pytest.raises(RecordError, match=words):
        build([], board)


def test_the_order_of_calibrations_does_not_matter(results: Path) -> None:
    Made(size=10, judges=LLM).write(results)
    both = [calibration("a"), calibration("b")]
    cells = join([results])
    assert generate(cells, [], both) == generate(cells, [], both[::-1])


def test_the_committed_calibrations_are_those_of_the_committed_judges() -> None:
    from shiftdc_eval.board.judge_calibrations import CALIBRATIONS, calibration_name
    from shiftdc_eval.judges import get_judge

    committed = {
        calibration_name(one): one for one in CALIBRATIONS.all_of(Path(__file__).parents[2] / "leaderboards")
    }
    assert committed
    for found in committed.values():
        assert found.fingerprint == get_judge(found.judge).fingerprint


def test_grades_of_mmvet_are_shown_in_the_unit_of_its_paper(results: Path, board: Path) -> None:
    made = Made(task="shiftdc_mmvet", size=10, judges={"llm_mmvet": ("score", 0.5)}, score="percent")
    path, rows = made.write(results), made.rows()
    for row in rows:
        row["shiftdc"]["verdicts"]["llm_mmvet"]["value"] = 0.307
    write_rows(path, rows)
    build([results], board)
    [measure] = json.loads((board / "index.json").read_text())["cells"][0]["measures"]
    assert measure["value"] == pytest.approx(30.7)
    for group in measure["groups"].values():
        assert all(part["value"] == pytest.approx(30.7) for part in group.values())
    assert "30.7" in (board / "leaderboard.md").read_text()
    assert "0.307" not in (board / "leaderboard.md").read_text()
