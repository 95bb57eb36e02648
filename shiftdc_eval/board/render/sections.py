"""The board as sections of rows, one section per task version, judge and kind of model, for Markdown and page."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from shiftdc_eval.board.defense_labels import draw_of, is_drawn, settings_but_draw
from shiftdc_eval.board.detection import TEMPLATE
from shiftdc_eval.board.index import (
    NO_BENIGN,
    Comparison,
    Detection,
    Entry,
    Index,
    IndexCell,
    Measure,
    Metric,
    Pair,
)
from shiftdc_eval.board.model_kinds import MARKS, Mark
from shiftdc_eval.board.official_means import means_of
from shiftdc_eval.board.render.companions import (
    ORDER,
    Beside,
    BesideValue,
    Result,
    beside_of,
    blank_twin,
    measure_of,
    results_of,
    value_beside,
)
from shiftdc_eval.board.render.format import METRIC_NAMES, differing, show
from shiftdc_eval.board.render.judge_notes import judged

REFUSALS: tuple[Metric, ...] = ("keyword_asr", "refused", "over_refusal")
"""What a refusal judge measures."""


@dataclass(frozen=True)
class Line:
    """One row of a section."""

    cell: IndexCell
    """The cell; of several seeds the first."""
    measure: Measure
    rank: tuple[int, int] | None
    not_ranked: list[str]
    baseline: Pair | None
    """Pair with `none`, in either order."""
    beside: list[BesideValue | None]
    """Results of the same model and defense on the section's companion tasks."""
    setting: str
    """Distinguishes comparisons of the same model, e.g. `dtype=float16`."""
    seeds: list[IndexCell]
    """Cell of each seed."""
    pooled: bool
    """True where the comparison has several seeds."""
    numbers: list[int]
    """Positions in the index of the cells of all seeds; the first is that of `cell`."""

    @property
    def relative(self) -> float | None:
        """Seconds relative to `none`, averaged over seeds."""
        known = [cell.relative for cell in self.seeds if cell.relative is not None]
        return sum(known) / len(known) if known else None

    @property
    def items(self) -> str:
        """Items answered, of the items of the task."""
        times = f" × {len(self.seeds)} seeds" if len(self.seeds) > 1 else ""
        return f"{min(cell.answered for cell in self.seeds)}/{self.cell.items}{times}"

    @property
    def by_seed(self) -> str:
        """The value of each seed; empty where the comparison has one seed."""
        if not self.pooled:
            return ""
        seeds = ", ".join(str(cell.seed) for cell in self.seeds)
        own = [
            one.value
            for cell in self.seeds
            for one in cell.measures
            if (one.judge, one.metric) == (self.measure.judge, self.measure.metric)
        ]
        return f"seeds {seeds}: {', '.join(show(value, self.measure.metric) for value in own)}"

    @property
    def detection(self) -> Detection | None:
        """What a detector's scores say; of several seeds the first's."""
        return self.cell.detection

    @property
    def refused_by(self) -> tuple[float, float] | None:
        """Shares refused by a detector's fixed text and by the model; None without a detector or a refusal judge."""
        measure = self.measure
        if self.detection is None or measure.metric not in REFUSALS or measure.value is None:
            return None
        template = measure.groups.get("flag", {}).get(TEMPLATE)
        value, part = measure.value, 0.0 if template is None else template.value
        if measure.metric == "keyword_asr":
            value, part = 1 - value, 1 - part
        by_detector = part * template.n / measure.n if template else 0.0
        return by_detector, value - by_detector

    @property
    def delta(self) -> float | None:
        """This defense minus `none`."""
        pair = self.baseline
        if pair is None:
            return None
        return pair.value if pair.first == self.numbers[0] else -pair.value


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
    """Companion tasks: over-refusal and utility."""
    lines: list[Line] = field(default_factory=list)
    power: list[str] = field(default_factory=list)
    """Which pairs are not separable, by model."""
    judged: list[str] = field(default_factory=list)
    """Sentences about the judge: agreement with people and other judges, cost."""

    @property
    def official(self) -> list[str]:
        """Names of the benchmark authors' own means, where these are not the share itself."""
        return [mean.name for mean in self.lines[0].measure.official] if self.lines else []

    @property
    def remark(self) -> str:
        """Caveats about the share; empty for most tasks."""
        control = self.lines[0].cell.twin_of if self.lines else ""
        said = [f"Control: the requests of {control} with a plain grey image each."] if control else []
        return " ".join([*said, *filter(None, [means_of(self.task).remark])])

    @property
    def title(self) -> str:
        """The task as readers are shown it."""
        return self.lines[0].cell.task_title if self.lines else self.task

    @property
    def name(self) -> str:
        """What is measured, and the judge."""
        models = sorted({model for line in self.lines for model in line.measure.models})
        judge = f"{self.judge} ({', '.join(models)})" if models else self.judge
        mark = f" · {self.mark}" if self.mark else ""
        return (
            f"{self.title} v{self.version.removeprefix('v')} · {METRIC_NAMES[self.metric]} by {judge}{mark}"
        )


Key = tuple[str, str, str, str, Metric, Mark]
"""Task, version, data revision, judge, metric and kind of model of a section."""


def sections_of(index: Index) -> list[Section]:
    """The sections: unmarked models first; within a kind of model safety, then over-refusal, then utility."""
    together: dict[Key, list[Comparison]] = defaultdict(list)
    for found in index.comparisons:
        mark = index.cells[found.entries[0].cell].mark
        together[found.task, found.version, found.revision, found.judge, found.metric, mark].append(found)
    results, marks = results_of(index), ["", *MARKS]
    sections = (_section(index, key, comparisons, results) for key, comparisons in together.items())
    return sorted(
        (section for section in sections if section.lines),
        key=lambda s: (marks.index(s.mark), ORDER.index(s.metric), s.task, s.version, s.revision, s.judge),
    )


def _section(
    index: Index, key: Key, comparisons: list[Comparison], results: Mapping[str, list[Result]]
) -> Section:
    task, _, _, judge, metric, _ = key
    systems = {index.cells[entry.cell].system for found in comparisons for entry in found.entries}
    others = [result for system in sorted(systems) for result in results[system]]
    beside = blank_twin(others, judge, task, metric)
    beside += [] if metric in ("over_refusal", "score") else beside_of(others, judge, task)
    lines, power = [], []
    ordered = sorted(comparisons, key=lambda found: (found.model, index.cells[found.entries[0].cell].path))
    for found, setting in zip(ordered, settings_of(index, ordered), strict=True):
        entries = [one for one in found.entries if NO_BENIGN not in one.not_ranked]
        lines += [_line(index, found, entry, beside, results, setting) for entry in entries]
        if found.power:
            who = f"{found.model} ({setting})" if setting else found.model
            power.append(f"{who}: {found.power}.")
    about_judge = judged(
        judge, metric, [line.cell for line in lines], [line.measure for line in lines], index
    )
    return Section(*key, beside, merge_random_seeds(lines), power, about_judge)


def merge_random_seeds(lines: Sequence[Line]) -> list[Line]:
    """Rows that differ only in the seed of a random direction become one row; the others stay as they are."""
    drawn: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        cell, key = line.cell, str(line.numbers[0])
        if is_drawn(cell):
            facts = [cell.model, cell.model_revision, line.setting, cell.defense_name, line.not_ranked]
            key = json.dumps([*facts, cell.answered, settings_but_draw(cell)], sort_keys=True)
        drawn[key].append(line)
    return [_furthest(found) if len(found) > 1 else found[0] for found in drawn.values()]


def _furthest(lines: Sequence[Line]) -> Line:
    """The seed furthest from `none`, with the number of seeds, their range and the cells of all of them."""
    drawn = sorted(lines, key=lambda line: draw_of(line.cell))
    count, metric = f"{len(drawn)} random directions", drawn[0].measure.metric
    values = sorted(line.measure.value for line in drawn if line.measure.value is not None)
    low, high = (show(values[0], metric), show(values[-1], metric)) if values else ("", "")
    paired = [(abs(line.delta), line) for line in drawn if line.delta is not None]
    chosen, said = drawn[0], f"one of {count}"
    if low == high:
        said += f", all with {low}" if low else ""
    elif paired:
        chosen = max(paired, key=lambda pair: pair[0])[1]
        said = f"furthest from none of {count} ({low} to {high}), p not adjusted for this choice"
    else:
        said += f" ({low} to {high})"
    own = chosen.numbers
    rest = [number for line in drawn for number in line.numbers if number not in own]
    return replace(chosen, not_ranked=[*chosen.not_ranked, said], numbers=[*own, *rest])


def settings_of(index: Index, comparisons: list[Comparison]) -> list[str]:
    """For each comparison, the settings that differ from the others of its model; empty for a single one."""
    facts: list[dict[str, object]] = []
    for found in comparisons:
        cell = index.cells[found.entries[0].cell]
        facts.append(
            {
                "revision": cell.model_revision[:12],
                "dtype": cell.dtype,
                "attention": cell.attention,
                "engine": cell.engine or "transformers",
                "seed": ", ".join(map(str, found.seeds)),
                **cell.generation,
            }
        )
    models = [found.model for found in comparisons]
    return [
        differing(own, [fact for fact, other in zip(facts, models, strict=True) if other == model])
        for own, model in zip(facts, models, strict=True)
    ]


def _line(
    index: Index,
    found: Comparison,
    entry: Entry,
    beside: Sequence[Beside],
    results: Mapping[str, list[Result]],
    setting: str,
) -> Line:
    numbers = [entry.cell, *entry.also]
    cells = [index.cells[number] for number in numbers]

    def against_none(pair: Pair) -> bool:
        other = {pair.first, pair.second} - {entry.cell}
        return len(other) == 1 and index.cells[other.pop()].defense_name == "none"

    is_none = cells[0].defense_name == "none"
    return Line(
        cell=cells[0],
        measure=measure_of(index, entry),
        rank=entry.rank,
        not_ranked=entry.not_ranked,
        baseline=None if is_none else (None, *filter(against_none, found.pairs))[-1],
        beside=[value_beside(column, entry.not_ranked, results[cells[0].system]) for column in beside],
        setting=setting,
        seeds=cells,
        pooled=len(found.seeds) > 1,
        numbers=numbers,
    )
