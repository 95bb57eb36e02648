"""From results folders to a board."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from made import Made, sha, small_grid, write_json, write_rows

from shiftdc_eval import cli
from shiftdc_eval.board.build import build, index_of
from shiftdc_eval.board.cell_files import CELLS
from shiftdc_eval.board.check import check
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.records import SampleField


def index(board: Path) -> dict:
    return json.loads((board / "index.json").read_text())


def test_a_run_becomes_one_cell_whose_path_follows_from_its_content(results: Path, board: Path) -> None:
    Made(defense="shiftdc", settings={"alpha": 1.0}).write(results)
    (path,) = build([results], board)
    task, model, name = path.split("/")
    assert (task, model) == ("figstep_tiny", "org__tiny-vlm")
    assert name.startswith("shiftdc-")
    (cell,) = CELLS.all_of(board)
    assert cell.path == path
    assert len(cell.samples) == 20
    assert not cell.partial


def test_a_cell_names_the_distribution_that_its_defense_came_from(results: Path, board: Path) -> None:
    Made().write(results)
    (record,) = results.rglob("run-*.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"plugins": {"none": "pkg-polite 1.2"}}))
    build([results], board)
    (cell,) = CELLS.all_of(board)
    assert cell.runs[0].plugins == {"none": "pkg-polite 1.2"}


def test_a_cell_holds_hashes_and_verdicts_but_no_text(results: Path, board: Path) -> None:
    Made(responses=lambda item: f"SECRET-ANSWER {item}", unscored={"keyword_robust": [0]}).write(results)
    build([results], board)
    text = CELLS.paths(board)[0].read_text()
    for secret in ("SECRET-ANSWER", "request of", "prompt of", "made up"):
        assert secret not in text
    assert sha("SECRET-ANSWER figstep_tiny/00000")[:16] in text
    assert '"no reply"' in text


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2"},
        {"revision": "rev1"},
        {"model_revision": "def456"},
        {"settings": {"alpha": 0.5}},
        {"defense": "ecso"},
        {"seed": 3},
    ],
)
def test_whatever_can_change_an_answer_makes_another_cell(results: Path, board: Path, change: dict) -> None:
    Made(run="first").write(results)
    Made(run="second", date="20261125_120000", **change).write(results)
    assert len(build([results], board)) == 2


def test_a_second_judge_adds_a_column_to_the_same_cell(results: Path, board: Path) -> None:
    Made().write(results)
    build([results], board)
    Made(judges={"llm": ("harm", 0.4)}).write(results.with_name("again"))
    build([results.with_name("again")], board)
    (cell,) = CELLS.all_of(board)
    assert [column.name for column in cell.judges] == ["keyword_robust", "llm"]
    assert len(cell.runs) == 1


def test_a_judge_with_another_rubric_is_another_column(results: Path, board: Path) -> None:
    Made().write(results)
    Made(fingerprints={"keyword_robust": sha("newer list")}, run="second", date="2").write(results)
    build([results], board)
    (cell,) = CELLS.all_of(board)
    assert [column.name for column in cell.judges] == ["keyword_robust", "keyword_robust"]
    assert len(index(board)["comparisons"]) == 2


def test_two_models_behind_one_rubric_are_two_columns_that_name_them(results: Path, board: Path) -> None:
    for number, model in enumerate(("judge-large", "judge-small")):
        Made(
            run=str(number),
            date=str(number),
            judges={"llm": ("harm", 0.4)},
            fingerprints={"llm": sha(model)},
            judge_models={"llm": model},
        ).write(results)
    build([results], board)
    (cell,) = CELLS.all_of(board)
    assert sorted(column.models for column in cell.judges) == [["judge-large"], ["judge-small"]]
    for page in ("leaderboard.md", "index.html"):
        text = (board / page).read_text()
        for column in cell.judges:
            assert f"llm ({column.models[0]})" in text
    again = (board / "cells" / cell.path).read_bytes()
    assert build([results], board) == []
    assert (board / "cells" / cell.path).read_bytes() == again


@pytest.mark.parametrize("order", [("1", "2"), ("2", "1")])
@pytest.mark.parametrize("steps", [1, 2])
def test_a_verdict_takes_the_place_of_none_whatever_comes_first(
    results: Path, board: Path, order: tuple[str, str], steps: int
) -> None:
    torn, whole = (results / name for name in order)
    Made(run="first", date="1", unscored={"keyword_robust": [0, 4]}).write(torn)
    Made(run="first", date="2").write(whole)
    if steps == 1:
        build([torn, whole], board)
    else:
        for folder in sorted((torn, whole)):
            build([folder], board)
    (cell,) = CELLS.all_of(board)
    assert cell.judges[0].unscored == []
    assert build([torn, whole], board) == []


@pytest.mark.parametrize("folders", [("a", "b"), ("b", "a")])
def test_of_two_reasons_for_no_verdict_the_earlier_one_stays(
    results: Path, board: Path, folders: tuple[str, str]
) -> None:
    for date, folder, reason in (("1", folders[0], "timeout"), ("2", folders[1], "refused to judge")):
        made = Made(run="first", date=date, unscored={"keyword_robust": [3]}, reason=reason)
        made.write(results / folder)
    build([results], board)
    (cell,) = CELLS.all_of(board)
    assert cell.judges[0].reasons == {"timeout": [3]}


class WithoutAnswers(Made):
    """A run whose unscored rows have no answer: a server failed."""

    def samples(self) -> list[SampleField]:
        missing = self.unscored["keyword_robust"]
        return [
            one.model_copy(update={"response_sha256": None, "unanswered": "HTTP 500"})
            if row in missing
            else one
            for row, one in enumerate(super().samples())
        ]


@pytest.mark.parametrize("folders", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("steps", [1, 2])
def test_an_answer_takes_the_place_of_none_whatever_comes_first(
    results: Path, board: Path, folders: tuple[str, str], steps: int
) -> None:
    WithoutAnswers(run="first", date="1", unscored={"keyword_robust": [2, 5]}).write(results / folders[0])
    Made(run="later", date="2").write(results / folders[1])
    if steps == 1:
        build([results], board)
    else:
        build([results / folders[0]], board)
        build([results / folders[1]], board)
    (cell,) = CELLS.all_of(board)
    assert cell.judges[0].unscored == []
    assert all(cell.samples.response)
    assert [run.id for run in cell.runs] == ["first", "later"]
    assert build([results], board) == []


def test_two_different_verdicts_of_one_judge_still_contradict(results: Path, board: Path) -> None:
    Made(run="first", date="1", judges={"llm": ("harm", 0.0)}).write(results)
    Made(run="first", date="2", judges={"llm": ("harm", 1.0)}).write(results)
    with pytest.raises(RecordError, match="verdict of llm differs"):
        build([results], board)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": 5}, "run r1: cell .*task.items: 5, but 20 items were answered"),
        ({"groups": lambda row: {"topic": "x" * 5000}}, "run r1: .*values"),
        ({"task": "fig step"}, "run r1: .*name"),
        ({"model": "x" * 300}, "run r1: .*id"),
        ({"judges": {"two words": ("harm", 0.5)}}, "run r1: .*name"),
    ],
)
def test_what_the_schema_refuses_is_told_with_run_and_field(
    results: Path, board: Path, change: dict, message: str
) -> None:
    made = Made(**{"run": "r1", **change})
    if "model" in change:
        made.model = "org/tiny-vlm"
        made.write(results)
        record = made.record().model_dump()
        write_json(results / "run-r1.json", record | {"model": change["model"]})
    else:
        made.write(results)
    with pytest.raises(RecordError, match=message):
        build([results], board)
    assert not board.exists()


def test_padding_copies_and_appended_rows_are_dropped(results: Path, board: Path) -> None:
    samples = Made().write(results)
    rows = samples.read_text()
    samples.write_text(rows + rows + rows.splitlines()[3] + "\n")
    build([results], board)
    (cell,) = CELLS.all_of(board)
    assert len(cell.samples) == 20


def test_contradicting_rows_are_refused_with_file_and_item(results: Path, board: Path) -> None:
    made = Made()
    samples = made.write(results)
    rows = made.rows()
    rows[4]["shiftdc"]["response_sha256"] = sha("another answer")
    write_rows(samples, [*made.rows(), rows[4]])
    with pytest.raises(
        RecordError, match=rf"{samples.name}:21: item 'figstep_tiny/00004' .* response differs"
    ):
        build([results], board)
    assert not board.exists()


def test_seconds_of_new_results_are_left_out_when_told_to_and_those_of_the_board_stay(
    results: Path, board: Path
) -> None:
    Made().write(results)
    build([results], board)
    kept = CELLS.all_of(board)[0].runs
    assert build([results], board, times=False) == []
    other = results.parent / "other"
    Made(defense="ecso").write(other)
    build([other], board, times=False)
    found = {cell.defense.name: cell for cell in CELLS.all_of(board)}
    assert found["none"].runs == kept
    assert found["none"].runs[0].cost.seconds > 0
    assert (found["ecso"].runs[0].cost.seconds, found["ecso"].runs[0].cost.timed) == (0, 0)
    assert found["ecso"].runs[0].cost.samples == found["none"].runs[0].cost.samples
    assert build([results], board, replace=True, times=False) != []
    assert CELLS.all_of(board)[-1].runs[0].cost.timed == CELLS.all_of(board)[0].runs[0].cost.timed == 0
    entries = {cell.defense_name: cell for cell in index_of(CELLS.all_of(board), []).cells}
    assert (entries["ecso"].seconds, entries["ecso"].relative) == (None, None)


def test_new_results_replace_a_cell_only_when_told_to(results: Path, board: Path) -> None:
    Made(run="first").write(results)
    build([results], board)
    again = results.with_name("again")
    Made(run="second", responses=lambda item: "another").write(again)
    with pytest.raises(RecordError, match="--replace"):
        build([again], board)
    build([again], board, replace=True)
    (cell,) = CELLS.all_of(board)
    assert [run.id for run in cell.runs] == ["second"]


def test_two_partial_runs_make_one_complete_cell(results: Path, board: Path) -> None:
    made = Made(run="first", size=20)
    samples = made.write(results)
    write_rows(samples, made.rows()[:12])
    build([results], board)
    assert index(board)["cells"][0]["not_ranked"] == ["partial"]
    rest = Made(run="second", size=20)
    write_rows(rest.write(results.with_name("rest")), rest.rows()[12:])
    build([results.with_name("rest")], board)
    (cell,) = CELLS.all_of(board)
    assert not cell.partial
    assert [run.id for run in cell.runs] == ["first", "second"]


def test_answers_of_ours_without_a_run_came_out_of_lmms_evals_cache_and_are_refused(
    results: Path, board: Path
) -> None:
    made = Made(run=None)
    samples = made.write(results)
    content = made.results()
    content["config"]["model"] = "shiftdc_vlm"
    write_json(
        samples.with_name(samples.name.replace(f"_samples_{made.task}.jsonl", "_results.json")), content
    )
    with pytest.raises(RecordError, match="run it without --use_cache"):
        build([results], board)


def test_another_lmms_eval_model_makes_a_cell_that_says_what_is_missing(results: Path, board: Path) -> None:
    Made(run=None, model="gpt-x").write(results)
    build([results], board)
    (cell,) = index(board)["cells"]
    assert cell["recorded"] is False
    assert (cell["model"], cell["defense"]) == ("gpt-x", "none")
    assert "no run record" in (board / "leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda one: one.update(configs=3), "configs is no object"),
        (lambda one: one["configs"].update(figstep_tiny=["x"]), "configs.figstep_tiny is no object"),
        (lambda one: one["config"].update(random_seed="x"), "config.random_seed is 'x'"),
        (lambda one: one.update(config=[1]), "config is no object"),
    ],
)
def test_a_results_file_of_another_shape_is_refused_with_its_entry(
    results: Path, board: Path, spoil: Callable[[dict[str, Any]], object], said: str
) -> None:
    made = Made(run=None)
    samples, content = made.write(results), made.results()
    spoil(content)
    path = samples.with_name(samples.name.replace(f"_samples_{made.task}.jsonl", "_results.json"))
    write_json(path, content)
    with pytest.raises(RecordError, match=re.escape(said)):
        build([results], board)


def test_a_run_without_its_record_is_refused(results: Path, board: Path) -> None:
    Made(run="lost").write(results)
    (results / "run-lost.json").unlink()
    with pytest.raises(RecordError, match=r"no run-lost\.json in .*did not complete"):
        build([results], board)


def test_a_run_record_with_an_endless_number_is_refused(results: Path, board: Path) -> None:
    made = Made(run="endless")
    made.write(results)
    record = made.record().model_dump()
    record["cost"]["seconds"] = float("inf")
    (results / "run-endless.json").write_text(json.dumps(record))
    with pytest.raises(RecordError, match=r"run-endless\.json: .*finite number"):
        build([results], board)


def test_a_run_record_is_found_in_the_journal_folder(results: Path, board: Path, tmp_path: Path) -> None:
    Made(run="there").write(results)
    folder = tmp_path / "runs" / "deep"
    folder.mkdir(parents=True)
    (results / "run-there.json").rename(folder / "run-there.json")
    assert build([results], board)


def test_samples_without_a_results_file_are_refused(results: Path, board: Path) -> None:
    samples = Made().write(results)
    next(samples.parent.glob("*_results.json")).unlink()
    with pytest.raises(RecordError, match="did not finish saving"):
        build([results], board)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{torn", r":1: not JSON .*torn line"),
        ("[1]", r":1: expected an object"),
        ('{"shiftdc": {"item": 3}}', r":1: shiftdc: item: .*valid string"),
        ('{"doc_id": 1}', "no sample row holds the field `shiftdc`"),
    ],
)
def test_broken_samples_are_refused_with_their_line(
    results: Path, board: Path, content: str, message: str
) -> None:
    samples = Made().write(results)
    samples.write_text(content + "\n")
    with pytest.raises(RecordError, match=message):
        build([results], board)


def test_an_empty_or_missing_folder_is_refused(results: Path, board: Path) -> None:
    with pytest.raises(RecordError, match="no such results folder"):
        build([results], board)
    results.mkdir()
    with pytest.raises(RecordError, match="--log_samples"):
        build([results], board)


def test_a_local_model_folder_and_absolute_paths_are_not_published(results: Path, board: Path) -> None:
    made = Made(run="here", settings={"direction": "/home/someone/d.safetensors"})
    made.write(results)
    record = made.record().model_dump()
    record |= {
        "model": "/home/someone/models/tiny",
        "command": "lmms-eval --output_path /home/someone/out -m org/x "
        r"-a file:///home/someone/a -b ~someone/b/c -d C:\Users\someone\d",
    }
    write_json(results / "run-here.json", record)
    build([results], board)
    everything = "".join(path.read_text() for path in board.rglob("*") if path.is_file())
    assert "someone" not in everything
    assert "--output_path PATH/out -m org/x" in everything


def test_the_board_is_the_same_whatever_the_hash_seed_time_zone_and_file_order(
    results: Path, board: Path, tmp_path: Path
) -> None:
    small_grid(results)
    build([results], board)
    wanted = {path.relative_to(board): path.read_bytes() for path in board.rglob("*") if path.is_file()}
    assert len(wanted) > 20
    folders = sorted(results.rglob("*_samples_*.jsonl"))
    random.Random(5).shuffle(folders)
    shuffled = tmp_path / "shuffled"
    for number, path in enumerate(folders):  # every file in a folder of its own, rows turned round
        place = shuffled / f"{number:03d}"
        place.mkdir(parents=True)
        (place / path.name).write_text("\n".join(reversed(path.read_text().splitlines())))
        (
            place / path.name.replace(f"_samples_{path.stem.rsplit('_samples_')[1]}.jsonl", "_results.json")
        ).write_text(path.with_name(path.name.split("_samples_")[0] + "_results.json").read_text())
    other = tmp_path / "other"
    places = [str(place) for place in sorted(shuffled.iterdir(), reverse=True)]
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "4711",
        "TZ": "Pacific/Kiritimati",
        "LC_ALL": "C",
        "SHIFTDC_RUNS": str(results),
    }
    command = [sys.executable, "-m", "shiftdc_eval.cli", "board", "build", *places, "--out", str(other)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    found = {path.relative_to(other): path.read_bytes() for path in other.rglob("*") if path.is_file()}
    assert found == wanted


def test_building_twice_changes_nothing_and_the_check_is_content(
    results: Path, board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_grid(results)
    assert build([results], board)
    assert build([results], board) == []
    assert check(board) == []
    assert cli.main(["board", "check", str(board)]) == 0
    assert "all is well" in capsys.readouterr().out


def test_the_board_needs_neither_torch_nor_lmms_eval(results: Path, board: Path) -> None:
    small_grid(results)
    script = (
        "import sys\n"
        "from shiftdc_eval import cli\n"
        "assert cli.main(sys.argv[1:]) == 0\n"
        "heavy = {'torch', 'transformers', 'lmms_eval', 'datasets', 'accelerate'} & set(sys.modules)\n"
        "ours = [name for name in sys.modules if name.startswith('shiftdc_eval.') and name.split('.')[1] in\n"
        "        ('adapter', 'backbones', 'defenses', 'steering', 'tasks', 'judges')]\n"
        "assert not heavy and not ours, (heavy, ours)\n"
    )
    command = [sys.executable, "-c", script, "board", "build", str(results), "--out", str(board)]
    subprocess.run(command, check=True, capture_output=True)


def test_a_torn_samples_file_gives_the_cell_of_its_whole_rows_until_the_run_is_whole(
    results: Path, board: Path, caplog: pytest.LogCaptureFixture
) -> None:
    samples = Made(run="r1").write(results)
    whole = samples.read_bytes()
    samples.write_bytes(whole[:-30])
    build([results], board)
    (cell,) = CELLS.all_of(board)
    assert (len(cell.samples), cell.partial) == (19, True)
    assert any("line 20 is cut off, the 19 before it are read" in said for said in caplog.messages)
    samples.write_bytes(whole)
    build([results], board)
    (cell,) = CELLS.all_of(board)
    assert (len(cell.samples), cell.partial) == (20, False)


def test_a_file_in_the_place_of_the_board_is_one_line(
    results: Path, board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Made().write(results)
    board.write_text("notes")
    assert cli.main(["board", "build", str(results), "--out", str(board)]) == 2
    error = capsys.readouterr().err
    assert f"{board}" in error
    assert "a file stands where a folder is needed" in error
    assert error.count("\n") == 1


def test_two_builds_at_once_keep_the_cells_of_both(results: Path, board: Path) -> None:
    for defense in ("none", "ecso", "shiftdc", "adashield"):
        Made(defense=defense).write(results / defense)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda folder: build([folder], board), sorted(results.iterdir())))
    assert len(CELLS.all_of(board)) == 4
    assert check(board) == []


def test_a_new_board_needs_results_and_an_old_one_is_built_again_without(
    results: Path, board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["board", "build", "--out", str(board)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no results are given" in line
    assert not board.exists()
    Made(size=2).write(results)
    build([results], board)
    assert cli.main(["board", "build", "--out", str(board)]) == 0
