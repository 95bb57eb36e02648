"""Results table of a grid: one row per defense, one column per task, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shiftdc_eval.core.terminal import printable

if TYPE_CHECKING:
    from rich.table import Table

    from shiftdc_eval.board.index import Index, IndexCell, Measure

MAIN_JUDGES = ("keyword_robust", "mme_strict", "mme_official", "exact_match")
"""Which judge's column the table shows, first match; the board shows all."""


def main_measure(cell: IndexCell) -> Measure:
    """The measure the table shows: by the judge that comes first in `MAIN_JUDGES`, else the cell's first."""
    # of two measures by one judge the first: harmful items before benign ones
    by_judge = {measure.judge.split("@")[0]: measure for measure in reversed(cell.measures)}
    return next((by_judge[name] for name in MAIN_JUDGES if name in by_judge), cell.measures[0])


def shown(measure: Measure) -> str:
    """A value with its 95 % interval: shares in percent, sums (MME) as they are."""
    if measure.value is None:
        return "unscored"
    scale = 100 if measure.value <= 1 else 1
    ends = (measure.low, measure.high)
    interval = "" if None in ends else f" [{scale * (ends[0] or 0):.0f}-{scale * (ends[1] or 0):.0f}]"
    return f"{scale * measure.value:.0f}{interval}"


def defenses(index: Index) -> list[str]:
    """Defense labels in row order: undefended, ShiftDC, the others by name, controls last."""
    found = {cell.defense: cell for cell in index.cells}

    def place(label: str) -> tuple[bool, bool, bool, str]:
        cell = found[label]
        return bool(cell.ablation), cell.defense_name != "none", cell.defense_name != "shiftdc", label

    return sorted(found, key=place)


def tables(index: Index) -> Iterator[Table]:
    """One table for each model and seed."""
    from rich.text import Text

    cells = [cell for cell in index.cells if cell.measures]
    groups: dict[tuple[object, ...], list[IndexCell]] = {}
    for cell in cells:
        key = cell.model, cell.model_revision, cell.dtype, cell.engine, cell.seed
        groups.setdefault(key, []).append(cell)
    for (model, _, dtype, _, seed), mine in groups.items():
        made = table(index.model_copy(update={"cells": mine}))
        if len(groups) > 1:
            made.title = Text(f"{printable(f'{model}, {dtype}')}, seed {seed}: {made.title}")
        yield made


def table(index: Index) -> Table:
    """One row per defense, one column per task."""
    from rich.table import Table
    from rich.text import Text

    from shiftdc_eval.board.render.format import METRIC_NAMES

    tasks = list(dict.fromkeys(cell.task for cell in index.cells))
    tasks.sort(
        key=lambda task: [
            ("figstep", "safetybench", "benign", "mme", "vqa", task)[i] in task for i in range(6)
        ][::-1]
    )
    cells = {(cell.defense, cell.task): cell for cell in index.cells}
    most = ", at most 400" if all(task.startswith("toy_") for task in tasks) else ""
    made = Table(title=f"percent (MME: sum of accuracies{most}), 95 % interval in brackets")
    made.add_column("defense")
    for task in tasks:
        metric = next(main_measure(cell).metric for cell in index.cells if cell.task == task)
        name = task.removeprefix("toy_").replace("mm_safetybench", "MM-SB").replace("_", " ")
        made.add_column(f"{name}\n{METRIC_NAMES[metric]}", justify="right", no_wrap=True)
    for defense in defenses(index):
        row = [cells.get((defense, task)) for task in tasks]
        # as it is: brackets in it are no markup
        made.add_row(
            Text(printable(defense)), *("" if cell is None else shown(main_measure(cell)) for cell in row)
        )
    return made
