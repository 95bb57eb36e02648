"""The board as sections of rows, one section a task version, judge and kind of model: shared by Markdown and page."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from shiftdc_eval.board.draws import draw_of, is_drawn, settings_but_draw
from shiftdc_eval.board.index import Comparison, Index, IndexCell, Measure, Metric, Pair
from shiftdc_eval.board.model_kinds import MARKS, Mark
from shiftdc_eval.board.official_means import remark_on
from shiftdc_eval.board.render.companions import (
    ORDER,
    Beside,
    BesideValue,
    Result,
    beside_of,
    measure_of,
    results_of,
    value_beside,
)
from shiftdc_eval.board.render.format import METRIC_NAMES, show
from shiftdc_eval.board.render.judge_notes import judged


@dataclass(frozen=True)
class Line:
    """One row of a section."""

    number: int
    """Position of the cell in the index."""
    cell: IndexCell
    measure: Measure
    rank: tuple[int, int] | None
    not_ranked: list[str]
    baseline: Pair | None
    """Difference to `none`, whichever way round it is stored."""
    beside: list[BesideValue | None]
    """What the same model and defense reach on the section's other tasks."""
    setting: str
    """What tells this comparison from another one of the same model, e.g. `dtype=float16`."""
    seeds: list[tuple[IndexCell, float | None]] = field(default_factory=list)
    """Cell and value of each seed, where several are pooled."""
    numbers: list[int] = field(default_factory=list)
    """Positions in the index of the cells of all seeds."""

    @property
    def relative(self) -> float | None:
        """Seconds relative to `none`, on average over seeds."""
        cells = [cell for cell, _ in self.seeds] or [self.cell]
        known = [cell.relative for cell in cells if cell.relative is not None]
        return sum(known) / len(known) if known else None

    @property
    def items(self) -> str:
        """Items answered, and of how many."""
        answered = min([cell.answered for cell, _ in self.seeds], default=self.cell.answered)
        times = f" × {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        return f"{answered}/{self.cell.items}{times}"

    @property
    def by_seed(self) -> str:
        """The value of each seed; empty where there is one."""
        if not self.seeds:
            return ""
        seeds = ", ".join(str(cell.seed) for cell, _ in self.seeds)
        return f"seeds {seeds}: {', '.join(show(value, self.measure.metric) for _, value in self.seeds)}"

    @property
    def delta(self) -> tuple[float, float, float] | None:
        """(difference, low, high) of this defense minus `none`."""
        pair = self.baseline
        if pair is None:
            return None
        if pair.first == self.number:
            return pair.value, pair.low, pair.high
        return -pair.value + 0.0, -pair.high + 0.0, -pair.low + 0.0


@dataclass(frozen=True)
class Section:
    """One task version and data revision by one judge, over all models of one kind."""

    task: str
    version: str
    revision: str
    judge: str
    metric: Metric
    mark: Mark
    beside: list[Beside]
    lines: list[Line] = field(default_factory=list)
    power: list[str] = field(default_factory=list)
    """What cannot be separated, by model."""
    judged: list[str] = field(default_factory=list)
    """What judging took, and how far the judge agrees with people and with the other judges, in sentences."""

    @property
    def official(self) -> list[str]:
        """Names of the authors' own means, where they are not the share itself."""
        return [mean.name for mean in self.lines[0].measure.official] if self.lines else []

    @property
    def remark(self) -> str:
        """What must be known of the share itself; empty where it is one whole."""
        return remark_on(self.task)

    @property
    def name(self) -> str:
        """What is measured, by whom."""
        models = sorted({model for line in self.lines for model in line.measure.models})
        judge = f"{self.judge} ({', '.join(models)})" if models else self.judge
        mark = f" · {self.mark}" if self.mark else ""
        return f"{self.task} v{self.version.removeprefix('v')} · {METRIC_NAMES[self.metric]} by {judge}{mark}"


Key = tuple[str, str, str, str, Metric, Mark]
"""Task, version, data revision, judge, metric and kind of model of a section."""


def sections_of(index: Index) -> list[Section]:
    """The sections: models without a mark first; in each kind safety, then over-refusal, then utility."""
    together: dict[Key, list[Comparison]] = defaultdict(list)
    for found in index.comparisons:
        mark = index.cells[found.entries[0].cell].mark
        together[found.task, found.version, found.revision, found.judge, found.metric, mark].append(found)
    results = results_of(index)
    made = [_section(index, key, together[key], results) for key in together]
    marks = ["", *MARKS]
    return sorted(
        made,
        key=lambda s: (
            marks.index(s.mark),
            ORDER.index(s.metric),
            *(s.task, s.version, s.revision, s.judge),
        ),
    )


def _section(
    index: Index, key: Key, comparisons: list[Comparison], results: Mapping[str, list[Result]]
) -> Section:
    task, version, revision, judge, metric, mark = key
    systems = {index.cells[entry.cell].system for found in comparisons for entry in found.entries}
    others = [result for system in sorted(systems) for result in results[system]]
    beside = [] if metric in ("over_refusal", "score") else beside_of(others, judge, task)
    section = Section(task, version, revision, judge, metric, mark, beside)
    ordered = sorted(comparisons, key=lambda found: (found.model, index.cells[found.entries[0].cell].path))
    for found, setting in zip(ordered, settings_of(index, ordered), strict=True):
        section.lines.extend(_lines(index, found, beside, results, setting))
        if found.power:
            who = f"{found.model} ({setting})" if setting else found.model
            section.power.append(f"{who}: {found.power}.")
    cells, measures = [line.cell for line in section.lines], [line.measure for line in section.lines]
    section.judged.extend(judged(judge, metric, cells, measures, index))
    section.lines[:] = one_of_the_draws(section.lines)
    return section


def one_of_the_draws(lines: Sequence[Line]) -> list[Line]:
    """Rows that differ in nothing but the seed of their random direction, as one; all others as they are."""
    drawn: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        drawn[_but_its_draw(line)].append(line)
    return [_furthest(found) if len(found) > 1 else found[0] for found in drawn.values()]


def _but_its_draw(line: Line) -> str:
    cell = line.cell
    if not is_drawn(cell):
        return str(line.number)
    facts = [cell.model, cell.model_revision, line.setting, cell.defense_name, line.not_ranked, cell.answered]
    return json.dumps([*facts, settings_but_draw(cell)], sort_keys=True)


def _furthest(lines: Sequence[Line]) -> Line:
    """The draw that is furthest from `none`; it says how many there are, and leads to the cells of all."""
    drawn = sorted(lines, key=lambda line: draw_of(line.cell))
    count, metric = f"{len(drawn)} random directions", drawn[0].measure.metric
    values = sorted(line.measure.value for line in drawn if line.measure.value is not None)
    low, high = (show(values[0], metric), show(values[-1], metric)) if values else ("", "")
    paired = [(abs(line.delta[0]), line) for line in drawn if line.delta]
    if low == high:
        chosen, said = drawn[0], f"one of {count}" + (f", all with {low}" if low else "")
    elif paired:
        chosen = max(paired, key=lambda pair: pair[0])[1]
        said = f"of {count} ({low} to {high}) the furthest from none, its p not adjusted for this choice"
    else:
        chosen, said = drawn[0], f"one of {count} ({low} to {high})"
    return replace(
        chosen,
        not_ranked=[*chosen.not_ranked, said],
        numbers=[number for line in drawn for number in line.numbers],
    )


def settings_of(index: Index, comparisons: list[Comparison]) -> list[str]:
    """For each comparison, what tells it from the others of its model; empty where it is alone."""
    facts: list[dict[str, str]] = []
    for found in comparisons:
        cell = index.cells[found.entries[0].cell]
        known = {
            "revision": cell.model_revision[:12],
            "dtype": cell.dtype,
            "attention": cell.attention,
            "engine": cell.engine or "plain",
            "seed": ", ".join(map(str, found.seeds)),
            **cell.generation,
        }
        facts.append(
            {name: value if isinstance(value, str) else json.dumps(value) for name, value in known.items()}
        )
    labels = []
    for found, own in zip(comparisons, facts, strict=True):
        siblings = [
            fact for other, fact in zip(comparisons, facts, strict=True) if other.model == found.model
        ]
        varying = [name for name in own if len({fact.get(name) for fact in siblings}) > 1]
        labels.append(", ".join(f"{name}={own[name]}" for name in varying))
    return labels


def _lines(
    index: Index,
    found: Comparison,
    beside: Sequence[Beside],
    results: Mapping[str, list[Result]],
    setting: str,
) -> list[Line]:
    nones = {entry.cell for entry in found.entries if index.cells[entry.cell].defense_name == "none"}
    pairs = {}
    for pair in found.pairs:
        if pair.second in nones:
            pairs[pair.first] = pair
        elif pair.first in nones:
            pairs[pair.second] = pair
    lines = []
    for entry in found.entries:
        cell = index.cells[entry.cell]
        mine = results[cell.system]
        lines.append(
            Line(
                number=entry.cell,
                cell=cell,
                measure=measure_of(index, entry),
                rank=entry.rank,
                not_ranked=entry.not_ranked,
                baseline=None if entry.cell in nones else pairs.get(entry.cell),
                beside=[value_beside(column, entry.not_ranked, mine) for column in beside],
                setting=setting,
                seeds=[
                    (index.cells[number], _value(index.cells[number], found.judge))
                    for number in (entry.cell, *entry.also)
                ]
                if len(found.seeds) > 1
                else [],
                numbers=[entry.cell, *entry.also],
            )
        )
    return lines


def _value(cell: IndexCell, judge: str) -> float | None:
    return next(measure.value for measure in cell.measures if measure.judge == judge)
