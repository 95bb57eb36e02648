"""What stands beside a safety task: over-refusal and utility of the same model and defense."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from shiftdc_eval.board.index import (
    ALONE,
    PARTIAL,
    Comparison,
    Entry,
    Index,
    IndexCell,
    Measure,
    Metric,
)
from shiftdc_eval.board.render.format import METRIC_NAMES, show

MAX_BESIDE: dict[Metric, int] = {"over_refusal": 3, "score": 2}
"""Columns of other tasks beside a safety task."""
ORDER: tuple[Metric, ...] = (
    "asr",
    "keyword_asr",
    "refused",
    "harm_score",
    "over_refusal",
    "unsafe_rate",
    "score",
)


@dataclass(frozen=True)
class Result:
    """What one judge says of one defense on one task, seeds pooled."""

    cell: IndexCell
    """The cell, of several seeds the first."""
    measure: Measure
    not_ranked: list[str]


def results_of(index: Index) -> dict[str, list[Result]]:
    """Every result by what does not change over tasks: model, defense and how it was run."""
    found: dict[str, list[Result]] = defaultdict(list)
    for comparison in index.comparisons:
        for entry in comparison.entries:
            cell = index.cells[entry.cell]
            reasons = entry.not_ranked if comparison_ranks(comparison, entry) else []
            found[cell.system].append(Result(cell, measure_of(index, entry), reasons))
    return found


def comparison_ranks(comparison: Comparison, entry: Entry) -> bool:
    """False where an entry only lacks a rank because there is nothing to rank it against."""
    return entry.rank is not None or entry.not_ranked != [ALONE]


def measure_of(index: Index, entry: Entry) -> Measure:
    """The measure of an entry, over all its seeds."""
    return entry.pooled or index.cells[entry.cell].measures[entry.measure]


@dataclass(frozen=True)
class BesideValue:
    """A measure of another task, with what keeps it from standing beside a full one."""

    value: float | None
    low: float | None
    high: float | None
    metric: Metric
    answered: int
    items: int
    reasons: tuple[str, ...]
    """Why it would not rank on its own task, less what its row is marked with anyway."""

    @property
    def whole(self) -> bool:
        """True when it may be set against other rows' values."""
        return not self.reasons and self.value is not None

    @property
    def text(self) -> str:
        """The value; with `n/items` when it is partial, a dash when it must not be compared."""
        if self.reasons and self.reasons != (PARTIAL,):
            return "–"
        shown = show(self.value, self.metric)
        return f"{shown} ({self.answered}/{self.items})" if self.reasons else shown


@dataclass(frozen=True)
class Beside:
    """A column of another task shown beside the measure: over-refusal or utility."""

    task: str
    version: str
    revision: str
    generation: str
    """Resolved generation settings as JSON text."""
    judge: str
    metric: Metric
    setting: str = ""
    """What tells it from another column of the same task."""

    @property
    def title(self) -> str:
        """Column title."""
        title = f"{METRIC_NAMES[self.metric]}: {self.task}"
        return f"{title} ({self.setting})" if self.setting else title

    def of(self, cell: IndexCell) -> bool:
        """Whether a cell holds this task as it was run for this column."""
        return data_of(cell) == (self.task, self.version, self.revision, self.generation)


def beside_of(results: Sequence[Result], judge: str, task: str) -> list[Beside]:
    """Over-refusal and utility shown beside a safety task: those that most of its rows have.

    Over-refusal is by the section's own judge where it judged, else by the first one. Of equally common
    tasks those of the same benchmark come first; `MAX_BESIDE` of each kind are shown, all have sections.
    """
    found: dict[tuple[Metric, str, str, str, str], set[Beside]] = defaultdict(set)
    seen: Counter[tuple[Metric, str, str, str, str]] = Counter()
    places: set[tuple[Metric, str]] = set()
    for result in results:
        metric, cell = result.measure.metric, result.cell
        if metric in MAX_BESIDE:
            found[metric, *data_of(cell)].add(Beside(*data_of(cell), result.measure.judge, metric))
            if (metric, cell.path) not in places:  # several judges of a cell count once
                seen[metric, *data_of(cell)] += 1
                places.add((metric, cell.path))
    chosen: list[Beside] = []
    for metric, most in MAX_BESIDE.items():
        made = sorted(
            (key for key in found if key[0] == metric),
            key=lambda key: (-seen[key], *_distance(task, key[1]), *key[2:]),
        )
        chosen += [min(found[key], key=lambda one: (one.judge != judge, one.judge)) for key in made[:most]]
    chosen.sort(
        key=lambda one: (ORDER.index(one.metric), one.task, one.version, one.revision, one.generation)
    )
    return _told_apart(chosen)


def data_of(cell: IndexCell) -> tuple[str, str, str, str]:
    """Task, version, data revision and generation settings: only equal ones share a column."""
    return cell.task, cell.version, cell.revision, json.dumps(cell.generation, sort_keys=True)


def _told_apart(columns: list[Beside]) -> list[Beside]:
    """Columns, with what differs in the title where it would not tell two of them apart."""
    made = []
    for column in columns:
        siblings = [one for one in columns if one.title == column.title]
        facts = [
            {"version": one.version, "revision": one.revision[:12], **json.loads(one.generation)}
            for one in siblings
        ]
        own = facts[siblings.index(column)]
        varying = [name for name in own if len({json.dumps(fact.get(name)) for fact in facts}) > 1]
        made.append(replace(column, setting=", ".join(f"{name}={own[name]}" for name in varying)))
    return made


def _distance(task: str, other: str) -> tuple[int, str]:
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(task, other, strict=False))
    return -len(list(shared)), other


def value_beside(column: Beside, row: Sequence[str], results: Sequence[Result]) -> BesideValue | None:
    """What a row shows in a column; None where that was not run.

    Args:
        column: the column.
        row: why the row itself does not rank.
        results: of the row's model and defense.
    """
    for result in results:
        measure = result.measure
        if column.of(result.cell) and (measure.judge, measure.metric) == (column.judge, column.metric):
            return BesideValue(
                value=measure.value,
                low=measure.low,
                high=measure.high,
                metric=measure.metric,
                answered=result.cell.answered,
                items=result.cell.items,
                reasons=tuple(one for one in result.not_ranked if one == PARTIAL or one not in row),
            )
    return None
