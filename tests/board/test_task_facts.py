"""What tasks tell the board: whether a score is utility, which model judged, and which means are over which groups.

`SHIFTDC_UPDATE_GOLDEN=1 pytest tests/board/test_task_facts.py` writes the board's file of means anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shiftdc_eval.board import official_means
from shiftdc_eval.board.cell_files import CELLS
from shiftdc_eval.judges.verdict import Verdict
from shiftdc_eval.tasks.catalogue import TASKS
from shiftdc_eval.tasks.info import GroupMeans
from shiftdc_eval.tasks.judging import Answer
from shiftdc_eval.tasks.lmms_own.known import LMMS_TASKS
from shiftdc_eval.tasks.toy.task import ToyRequests, ToyVQA

COMMITTED = Path(__file__).parents[2] / "leaderboards"


@pytest.mark.parametrize(
    ("kind", "name", "settings", "utility"),
    [
        (ToyVQA, "toy_vqa", {}, True),
        (ToyRequests, "toy_figstep", {"image_type": "figstep"}, False),
    ],
)
def test_a_task_says_whether_its_scores_are_utility(
    kind: Any, name: str, settings: dict[str, Any], utility: bool
) -> None:
    task = kind({"task": name, "dataset_kwargs": {"n": 2, "seed": 0} | settings})
    assert task.facts()["utility"] is utility


def test_a_sample_row_names_the_model_that_judged() -> None:
    task = ToyRequests(
        {"task": "toy_figstep", "dataset_kwargs": {"n": 1, "seed": 0, "image_type": "figstep"}}
    )
    judge = task.judges[0].name
    verdict = Verdict(kind="refusal", value="refused", model="judge-model-2")
    example = task.source.examples[0]
    field = task._sample_field(example, Answer("No."), {judge: verdict})
    assert field.verdicts[judge].model == "judge-model-2"


def test_the_means_of_the_board_are_those_that_the_tasks_name() -> None:
    tasks: dict[int, tuple[GroupMeans, list[str]]] = {}
    for info in [*TASKS.values(), *LMMS_TASKS.values()]:
        if info.means is not None:
            tasks.setdefault(id(info.means), (info.means, []))[1].append(info.name)
    expected = [
        {"tasks": names, "group": means.group, "means": means.parts, "remark": means.remark}
        | ({"summed": means.summed} if means.summed else {})
        | ({"paired": True} if means.paired else {})
        | ({"beside_benign": True} if means.beside_benign else {})
        | ({"warning_is_safe": True} if means.warning_is_safe else {})
        for means, names in tasks.values()
    ]
    text = json.dumps(expected, indent=1) + "\n"
    if os.environ.get("SHIFTDC_UPDATE_GOLDEN"):
        official_means.FACTS.write_text(text, encoding="utf-8", newline="\n")
    assert text == official_means.FACTS.read_text(encoding="utf-8")


@pytest.mark.parametrize("task", [name for name, info in TASKS.items() if info.means and info.means.parts])
def test_the_means_are_over_the_groups_of_the_data_and_those_of_clear_harm_are_flagged_so(task: str) -> None:
    means = TASKS[task].means
    assert means is not None
    cells = [cell for cell in CELLS.all_of(COMMITTED) if cell.task.name == task]
    if not cells:
        pytest.skip(f"no committed cell of {task}")
    samples = cells[0].samples
    group = samples.groups[means.group]
    assert group.values == sorted({name for part in means.parts.values() for name in part})
    clear = {group.values[group.codes[row]] for row in samples.flags["clear_harm"]}
    assert [set(part) for title, part in means.parts.items() if "clear-harm" in title] == [clear]
    assert {group.values[code] for row, code in enumerate(group.codes)} - clear == {
        name for part in means.parts.values() for name in part
    } - clear
