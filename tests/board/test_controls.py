"""Blank-image controls on the board: beside the task, never ranked, under a title of their own."""

from __future__ import annotations

from pathlib import Path

from made import Made

from shiftdc_eval.board.build import build
from shiftdc_eval.board.index import Index
from shiftdc_eval.board.render.columns import columns_of
from shiftdc_eval.board.render.sections import sections_of

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
    sections = {section.task: section for section in sections_of(index)}
    control = sections["figstep_tiny_blank"]
    assert control.name.startswith("figstep_tiny, blank images v1")
    assert {line.rank for line in control.lines} == {None}
    assert all("blank-image control" in line.not_ranked for line in control.lines)
    assert all(line.rank for line in sections["figstep_tiny"].lines)
    beside = [column for column in columns_of(sections["figstep_tiny"]) if column.task]
    assert [column.task for column in beside] == ["figstep_tiny, blank images"]
    values = {line.cell.defense_name: line.measure.value for line in control.lines}
    for line in sections["figstep_tiny"].lines:
        shown = beside[0].shown(line, "-")
        assert shown == f"{100 * (values[line.cell.defense_name] or 0):.1f}"
    assert "Control: the requests of figstep_tiny with a plain grey image each." in control.remark
    assert len({cell.path for cell in index.cells}) == 4
    for file in ("index.html", "leaderboard.md"):
        assert "blank images" in (board / file).read_text()
