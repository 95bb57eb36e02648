"""Companion columns of a safety task: over-refusal and utility of the same model and defense."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix

from shiftdc_eval.board.index import ALONE, BLANK_CONTROL, PARTIAL, Entry, Index, IndexCell, Measure, Metric
from shiftdc_eval.board.render.format import METRIC_NAMES, differing, show

MAX_BESIDE: dict[Metric, int] = {"over_refusal": 3, "score": 2}
"""Companion columns of each metric at most."""
ORDER = list(METRIC_NAMES)


@dataclass(frozen=True)
class Result:
    """One judge's result for one defense on one task, seeds pooled."""

    cell: IndexCell
    """The cell; of several seeds the first."""
    measure: Measure
    not_ranked: list[str]


def results_of(index: Index) -> dict[str, list[Result]]:
    """Every result by system: model, defense and how it was run."""
    found: dict[str, list[Result]] = defaultdict(list)
    for comparison in index.comparisons:
        for entry in comparison.entries:
            cell = index.cells[entry.cell]
            reasons = [] if entry.not_ranked == [ALONE] else entry.not_ranked
            found[cell.system].append(Result(cell, measure_of(index, entry), reasons))
    return found


def measure_of(index: Index, entry: Entry) -> Measure:
    """The measure of an entry, over all its seeds."""
    return entry.pooled or index.cells[entry.cell].measures[entry.measure]


@dataclass(frozen=True)
class BesideValue:
    """A result on a companion task."""

    result: Result
    reasons: tuple[str, ...]
    """Why it would not rank on its own task, without the reasons that its row shows already."""

    @property
    def whole(self) -> bool:
        """True when it may be compared with the values of other rows."""
        return not self.reasons and self.result.measure.value is not None

    @property
    def text(self) -> str:
        """The value; with `n/items` when it is partial, a dash when it must not be compared."""
        if self.reasons and self.reasons != (PARTIAL,):
            return "–"
        cell, measure = self.result.cell, self.result.measure
        shown = show(measure.value, measure.metric)
        return f"{shown} ({cell.answered}/{cell.items})" if self.reasons else shown


@dataclass(frozen=True)
class Beside:
    """A companion column: one task by one judge."""

    task: str
    version: str
    revision: str
    generation: str
    """Resolved generation settings as JSON text."""
    judge: str
    metric: Metric
    setting: str = ""
    """Distinguishes it from another column of the same task."""
    shown: str = ""
    """The task as readers are shown it; empty: by its name."""

    @property
    def title(self) -> str:
        """Metric and task."""
        title = f"{METRIC_NAMES[self.metric]}: {self.shown or self.task}"
        return f"{title} ({self.setting})" if self.setting else title


def blank_twin(results: Sequence[Result], judge: str, task: str, metric: Metric) -> list[Beside]:
    """The control beside a task: the same judge's metric with every image blank, under its commonest settings."""
    found = Counter(
        Beside(*data_of(result.cell), judge, metric, shown=result.cell.task_title)
        for result in results
        if result.cell.twin_of == task and (result.measure.judge, result.measure.metric) == (judge, metric)
    )
    return (
        [min(found, key=lambda one: (-found[one], one.version, one.revision, one.generation))]
        if found
        else []
    )


def beside_of(results: Sequence[Result], judge: str, task: str) -> list[Beside]:
    """The companion columns of a safety task: the over-refusal and utility tasks that most of its rows have.

    Over-refusal is by the section's own judge if it judged that task, else by the first judge. Of equally common
    tasks those of the same benchmark come first; `MAX_BESIDE` limits the columns of each metric.
    """
    found: dict[tuple[Metric, str, str, str, str], set[Beside]] = defaultdict(set)
    for result in results:
        metric, cell = result.measure.metric, result.cell
        if metric in MAX_BESIDE and not cell.twin_of:
            found[metric, *data_of(cell)].add(Beside(*data_of(cell), result.measure.judge, metric))
    # several judges of a cell count once
    counted = {
        (result.measure.metric, result.cell.path): result.cell
        for result in results
        if not result.cell.twin_of
    }
    seen = Counter((metric, *data_of(cell)) for (metric, _), cell in counted.items())
    chosen: list[Beside] = []
    for metric, most in MAX_BESIDE.items():
        keys = sorted(
            (key for key in found if key[0] == metric),
            key=lambda key: (-seen[key], -len(commonprefix([task, key[1]])), *key[1:]),  # noqa: RUF071
        )
        chosen += [min(found[key], key=lambda one: (one.judge != judge, one.judge)) for key in keys[:most]]
    chosen.sort(
        key=lambda one: (ORDER.index(one.metric), one.task, one.version, one.revision, one.generation)
    )
    return _distinguished(chosen)


def data_of(cell: IndexCell) -> tuple[str, str, str, str]:
    """Task, version, data revision and generation settings: cells share a column only if all are equal."""
    return cell.task, cell.version, cell.revision, json.dumps(cell.generation, sort_keys=True)


def _distinguished(columns: list[Beside]) -> list[Beside]:
    """The columns; those with equal titles get the settings in which they differ."""
    made = []
    for column in columns:
        siblings = [one for one in columns if one.title == column.title]
        facts = [
            {"version": one.version, "revision": one.revision[:12], **json.loads(one.generation)}
            for one in siblings
        ]
        made.append(replace(column, setting=differing(facts[siblings.index(column)], facts)))
    return made


def value_beside(column: Beside, row: Sequence[str], results: Sequence[Result]) -> BesideValue | None:
    """The value of a row in a companion column; None where that task was not run.

    Args:
        column: the column.
        row: why the row itself does not rank.
        results: results of the row's model and defense.
    """
    wanted = (column.task, column.version, column.revision, column.generation, column.judge, column.metric)
    for result in results:
        if (*data_of(result.cell), result.measure.judge, result.measure.metric) == wanted:
            shown = {*row, BLANK_CONTROL} - {PARTIAL}
            reasons = (one for one in result.not_ranked if one not in shown)
            return BesideValue(result, tuple(reasons))
    return None
