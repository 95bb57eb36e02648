"""Blank-image controls on the board: beside the task, never ranked, under a title of their own."""

from __future__ import annotations

from pathlib import Path

from made import Made
from shown import rows, tasks, value

from shiftdc_eval.board.build import build
from shiftdc_eval.board.index import Index

NOTE = "blank images: every image of figstep_tiny is replaced by a grey one of its size"


def write(results: Path, **changes: object) -> None:
    for defense in ("none", "ecso"):
        for task, notes in (("figstep_tiny", []), ("figstep_tiny_blank", [NOTE])):
            made = Made(task=task, defense=defense, note="", run=f"{defense}-{task}")
            made.write(results / defense / task)
            record = made.record()
            tasks = [record.tasks[0].model_copy(update={"notes": notes})]
            path = next((results / defense / task).rglob("run-*.json"))
            path.write_text(record.model_copy(update={"tasks": tasks}).model_dump_json())


def test_a_blank_image_control_stands_beside_its_task_and_does_not_rank(results: Path, board: Path) -> None:
    write(results)
    build([results], board)
    index = Index.model_validate_json((board / "index.json").read_text())
    control, task = tasks(index)["figstep_tiny, blank images"], tasks(index)["figstep_tiny"]
    assert all("blank-image control" in row.notes and not row.compared for row in control.table.rows)
    assert all(row.compared for row in task.table.rows)
    for name in rows(task.table):
        (cell,) = [one for one in index.cells if (one.task, one.defense) == ("figstep_tiny_blank", name)]
        heads = [" ".join(head) for head in task.table.heads]
        shown = rows(task.table)[name].values[heads.index("not refused % blank images")].text
        assert shown == f"{100 * (cell.measures[0].value or 0):.1f}"
        assert value(control.table, name, "not refused").text == shown
    assert control.about == [
        "Control: the requests of figstep_tiny with a plain grey image each.",
        *control.about[1:],
    ]
    assert len({cell.path for cell in index.cells}) == 4
    for file in ("index.html", "leaderboard.md"):
        assert "blank images" in (board / file).read_text()
