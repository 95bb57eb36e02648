"""`board check` refuses whatever is wrong, and says where."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from made import Made, sha

from shiftdc_eval import cli
from shiftdc_eval.board.build import build
from shiftdc_eval.board.cell_files import CELLS
from shiftdc_eval.board.check import check
from shiftdc_eval.board.reported import REPORTED, shipped
from shiftdc_eval.core.json_files import canonical

Content = dict[str, Any]
Change = Callable[[Content], Any]


@pytest.fixture
def made(results: Path, board: Path) -> Path:
    """A board of one cell; returns the cell's file."""
    judges = {"exact": ("score", 0.7), "keyword_robust": ("refusal", 0.5), "llm": ("harm", 0.3)}
    Made(size=12, images_a_question=3, judges=judges, unscored={"llm": [2], "exact": [5]}).write(results)
    build([results], board)
    return CELLS.paths(board)[0]


def put(*keys: Any, value: Any) -> Change:
    """A change that sets one field."""

    def change(cell: Content) -> None:
        for key in keys[:-1]:
            cell = cell[key]
        cell[keys[-1]] = value

    return change


def drop(*keys: Any) -> Change:
    """A change that removes one field."""

    def change(cell: Content) -> None:
        for key in keys[:-1]:
            cell = cell[key]
        del cell[keys[-1]]

    return change


def swap_first_two_items(cell: Content) -> None:
    items = cell["samples"]["item"]
    items[0], items[1] = items[1], items[0]


def repeat_first_item(cell: Content) -> None:
    cell["samples"]["item"][1] = cell["samples"]["item"][0]


WRONG: dict[str, tuple[Change, str]] = {
    "foreign cell version": (put("cell_version", value=2), "cell_version: "),
    "no cell version": (drop("cell_version"), "cell_version: Field required"),
    "unknown field": (put("asr", value=0.3), "asr: Extra inputs"),
    "an aggregate in a judge": (put("judges", 0, "mean", value=0.3), "judges.0.mean: Extra inputs"),
    "text in a sample": (put("samples", "text", value=["x"]), "samples.text: Extra inputs"),
    "no task name": (drop("task", "name"), "task.name: Field required"),
    "a task name that is a path": (put("task", "name", value="../figstep"), "task.name: "),
    "a defense name that is a path": (put("defense", "name", value="a/b"), "defense.name: "),
    "no items": (put("task", "items", value=0), "task.items: "),
    "items as text": (put("task", "items", value="12"), "task.items: "),
    "fewer items than answers": (put("task", "items", value=3), "task.items: 3, but 12 items"),
    "empty version": (put("task", "version", value=""), "task.version: "),
    "another task version": (put("task", "version", value="9"), "path: the content belongs at cells/"),
    "another model": (put("model", "id", value="org/other"), "path: the content belongs at cells/"),
    "another defense setting": (
        put("defense", "settings", value={"alpha": 2}),
        "path: the content belongs at",
    ),
    "another attention kernel": (put("attention", value="eager"), "path: the content belongs at cells/"),
    "batches of nothing": (put("runs", 0, "batch_size", value=0), "runs.0.batch_size: "),
    "a negative seed": (put("seed", value=-1), "seed: "),
    "a fractional seed": (put("seed", value=0.5), "seed: "),
    "a broken template hash": (put("model", "template_sha256", value="xyz"), "model.template_sha256: "),
    "a broken response hash": (put("samples", "response", 3, value="not-hex"), "samples.response.3: "),
    "a full-length prompt hash": (put("samples", "prompt", 0, value=sha("x")), "samples.prompt.0: "),
    "a column too short": (drop("samples", "response", 11), "samples: response: 11 entries for 12"),
    "a question missing": (drop("samples", "question", 11), "samples: question: 11 entries for 12"),
    "items out of order": (swap_first_two_items, "samples: item: "),
    "an item twice": (repeat_first_item, "samples: item: "),
    "no samples": (put("samples", "item", value=[]), "samples: item: a cell needs"),
    "a group code behind its values": (
        put("samples", "groups", "topic", "codes", 0, value=9),
        "samples: groups.topic.codes: 9",
    ),
    "unsorted group names": (
        put("samples", "groups", "topic", "values", value=["b", "a", "c", "d"]),
        "samples: groups.topic.values: not sorted",
    ),
    "a flag behind the rows": (
        put("samples", "flags", "clear_harm", value=[99]),
        "samples: flags.clear_harm",
    ),
    "a foreign verdict letter": (put("judges", 1, "verdicts", value="RCX" * 4), "judges.1: verdicts: 'X'"),
    "a verdict of another kind": (put("judges", 1, "verdicts", value="SU" * 6), "judges.1: verdicts: 'S'"),
    "verdicts too short": (
        put("judges", 1, "verdicts", value="RC"),
        "judges.keyword_robust.verdicts: 2 for 12",
    ),
    "a score as text": (put("judges", 0, "verdicts", 0, value="high"), "judges.0.verdicts."),
    "letters in a score column": (
        put("judges", 0, "verdicts", value="R" * 12),
        "judges.0: verdicts: a score",
    ),
    "an unscored row without reason": (put("judges", 2, "reasons", value={}), "judges.2: reasons: 0 rows"),
    "a reason for a scored row": (
        put("judges", 2, "reasons", value={"x": [2, 3]}),
        "judges.2: reasons: 2 rows",
    ),
    "an unknown kind": (put("judges", 2, "kind", value="vibes"), "judges.2.kind: "),
    "a short fingerprint": (put("judges", 2, "fingerprint", value="abc"), "judges.2.fingerprint: "),
    "a judge twice": (lambda cell: cell["judges"].append(cell["judges"][2]), "judges: "),
    "no runs": (put("runs", value=[]), "runs: "),
    "a cost without seconds": (drop("runs", 0, "cost", "seconds"), "runs.0.cost.seconds: Field required"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_cell_is_refused_with_file_and_field(made: Path, board: Path, name: str) -> None:
    change, message = WRONG[name]
    cell = json.loads(made.read_text())
    change(cell)
    made.write_text(canonical(cell))
    problems = check(board)
    assert len(problems) == 1
    assert problems[0].startswith(f"{made}: ")
    assert message in problems[0]


def test_there_are_at_least_25_wrong_cells() -> None:
    assert len(WRONG) >= 25


def test_nan_and_broken_json_are_refused(made: Path, board: Path) -> None:
    text = made.read_text()
    for broken in (text[:-20], text.replace('"seed": 0', '"seed": NaN'), ""):
        made.write_text(broken)
        (problem,) = check(board)
        assert problem.startswith(f"{made}: ")
    made.write_bytes(b"\xff\xfe")
    (problem,) = check(board)
    assert "cannot be read" in problem


@pytest.mark.parametrize(
    "change", [str.upper, lambda text: text + "\n", lambda text: text.replace("\n", "\r\n")]
)
def test_generated_files_must_be_what_the_cells_give(
    made: Path, board: Path, change: Callable[[str], str]
) -> None:
    assert check(board) == []
    for name in ("index.json", "leaderboard.md", "index.html"):
        path = board / name
        before = path.read_bytes()
        path.write_bytes(change(before.decode()).encode())
        (problem,) = check(board)
        assert problem.startswith(f"{path}: differs from the regenerated file: ")
        path.unlink()
        assert check(board) == [f"{path}: missing; run `shiftdc-eval board build`"]
        path.write_bytes(before)


def test_a_changed_verdict_shows_in_the_generated_files(made: Path, board: Path) -> None:
    cell = json.loads(made.read_text())
    letters = cell["judges"][1]["verdicts"]
    cell["judges"][1]["verdicts"] = letters.translate({ord("R"): "C", ord("C"): "R"})
    made.write_text(canonical(cell))
    assert any("index.json: differs" in problem for problem in check(board))


def test_the_same_content_in_other_bytes_is_refused(made: Path, board: Path) -> None:
    made.write_text(json.dumps(json.loads(made.read_text())))
    (problem,) = check(board)
    assert "not in canonical form" in problem


def test_a_cell_in_the_wrong_place_is_refused(made: Path, board: Path) -> None:
    made.rename(made.with_name("none-00000000.json"))
    (problem,) = check(board)
    assert "none-00000000.json: path: the content belongs at" in problem


def test_foreign_files_are_refused(made: Path, board: Path) -> None:
    (board / "notes.txt").write_text("x")
    (made.parent / "run.sh").write_text("x")
    assert [problem.split(": ")[1] for problem in check(board)] == [
        "not part of a board",
        "not a cell (cells are .json files)",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("tables", 0, "rows", 0, "values", value=[1.0]), "tables.0: rows: "),
        (put("tables", 0, "unit", value="points per game"), "tables.0.unit: "),
        (put("source", "arxiv", value="javascript:alert(1)"), "source.arxiv: "),
        (put("source", "title", value=""), "source.title: "),
        (put("tables", value=[]), "tables: "),
        (drop("reported_version"), "reported_version: Field required"),
    ],
)
def test_wrong_reported_numbers_are_refused(made: Path, board: Path, change: Change, message: str) -> None:
    committed = Path(__file__).parents[2] / "shiftdc_eval" / "board" / "papers" / "zou2025_shiftdc.json"
    paper = json.loads(committed.read_text())
    change(paper)
    (board / "reported").mkdir()
    (board / "reported" / "paper.json").write_text(canonical(paper))
    (problem,) = check(board)
    assert "paper.json: " in problem
    assert message in problem


def test_the_command_prints_each_problem_and_fails(
    made: Path, board: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (board / "index.html").write_text("x")
    assert cli.main(["board", "check", str(board)]) == 1
    assert "index.html: differs" in capsys.readouterr().out
    assert cli.main(["board", "check", str(board / "nowhere")]) == 2


def test_the_committed_board_is_valid_and_as_generated() -> None:
    committed = Path(__file__).parents[2] / "leaderboards"
    assert check(committed) == []


def test_a_folder_that_is_a_link_is_read_where_links_are_files(tmp_path: Path, board: Path) -> None:
    """As `git clone -c core.symlinks=false` leaves it: a file with the link's target."""
    papers = Path(__file__).parents[2] / "shiftdc_eval" / "board" / "papers"
    shutil.copytree(papers, tmp_path / "papers")
    board.mkdir(exist_ok=True)
    (board / "reported").symlink_to(tmp_path / "papers")
    linked = REPORTED.all_of(board)
    (board / "reported").unlink()
    (board / "reported").write_text("../papers" if board.parent == tmp_path else str(tmp_path / "papers"))
    assert REPORTED.all_of(board) == linked != []


def test_the_committed_reported_numbers_agree_with_each_other() -> None:
    """The printed averages are the means of the printed scenarios, within rounding."""
    paper = next(one for one in shipped() if one.source.short == "ShiftDC paper")
    assert paper in REPORTED.all_of(Path(__file__).parents[2] / "leaderboards")
    tables = {table.id: table for table in paper.tables}
    averages = {row.label: row.values for row in tables["mm-safetybench-average"].rows}
    compared = 0
    for name, model in (("llava-1-5-7b", "LLaVA-1.5-7B"), ("sharegpt4v-7b", "ShareGPT4V-7B")):
        rows = tables[f"mm-safetybench-{name}"].rows
        assert len(rows) == 13
        for column, average in enumerate(averages[model]):
            values = [row.values[column] for row in rows]
            assert average is not None
            assert sum(value for value in values if value is not None) / 13 == pytest.approx(
                average, abs=0.35
            )
            compared += 1
    assert compared == 26


def test_the_workflow_runs_whenever_a_module_that_the_check_imports_changes() -> None:
    root = Path(__file__).parents[2]
    workflow = yaml.safe_load((root / ".github" / "workflows" / "board.yml").read_text())
    script = (
        "import sys\n"
        "from shiftdc_eval import cli\n"
        "cli.main(['board', 'check', sys.argv[1]])\n"
        "names = [name for name in sys.modules if name.split('.')[0] == 'shiftdc_eval']\n"
        "print(*(sys.modules[name].__file__ for name in names), sep='\\n')\n"
    )
    command = [sys.executable, "-c", script, str(root / "leaderboards")]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout
    files = [Path(line).relative_to(root) for line in output.splitlines() if line.endswith(".py")]
    assert len(files) > 20
    for event in workflow[True].values():  # YAML reads the key `on` as true
        for file in files:
            assert any(fnmatch(file.as_posix(), pattern) for pattern in event["paths"]), file


def test_what_a_killed_build_left_is_ignored_and_removed(made: Path, board: Path) -> None:
    left = [made.with_name(f".{made.name}.0123abcd"), board / ".index.json.99999999-0123abcd"]
    for clean in (lambda: check(board), lambda: build([], board)):
        for path in left:
            path.write_text("{")
        assert clean() == []
        assert not any(path.exists() for path in left)
    (board / ".build.lock").write_text("")
    assert check(board) == []
