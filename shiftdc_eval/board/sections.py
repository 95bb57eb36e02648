"""The board as sections of rows, one section a task version and judge: shared by Markdown and page."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from itertools import takewhile

from shiftdc_eval.board.calibrations import against_people
from shiftdc_eval.board.index import (
    PARTIAL,
    UNSCORED,
    Comparison,
    Index,
    IndexCell,
    Measure,
    Metric,
    Official,
    Pair,
    too_many_unscored,
)
from shiftdc_eval.records import JudgeCost

METRIC_NAMES: dict[Metric, str] = {
    "asr": "ASR",
    "keyword_asr": "keyword ASR",
    "over_refusal": "over-refusal",
    "unsafe_rate": "unsafe share",
    "score": "score",
    "harm_score": "harm score",
}
ORDER: tuple[Metric, ...] = ("asr", "keyword_asr", "harm_score", "over_refusal", "unsafe_rate", "score")
MAX_BESIDE: dict[Metric, int] = {"over_refusal": 2, "score": 2}
"""Columns of other tasks beside a safety task."""
RATES = ("asr", "keyword_asr", "over_refusal", "unsafe_rate")


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
    """What tells this comparison from another one of the same model, e.g. `seed=3`."""

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


@dataclass(frozen=True)
class Section:
    """One task version and data revision by one judge, over all models."""

    task: str
    version: str
    revision: str
    judge: str
    metric: Metric
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
    def name(self) -> str:
        """What is measured, by whom."""
        models = sorted({model for line in self.lines for model in line.measure.models})
        judge = f"{self.judge} ({', '.join(models)})" if models else self.judge
        return f"{self.task} v{self.version.removeprefix('v')} · {METRIC_NAMES[self.metric]} by {judge}"


def sections_of(index: Index) -> list[Section]:
    """The sections: safety first, then over-refusal, then utility."""
    together: dict[tuple[str, str, str, str, Metric], list[Comparison]] = defaultdict(list)
    for found in index.comparisons:
        together[found.task, found.version, found.revision, found.judge, found.metric].append(found)
    systems: dict[str, list[IndexCell]] = defaultdict(list)
    for cell in index.cells:
        systems[cell.system].append(cell)
    made = [_section(index, key, together[key], systems) for key in together]
    return sorted(made, key=lambda s: (ORDER.index(s.metric), s.task, s.version, s.revision, s.judge))


def _section(
    index: Index,
    key: tuple[str, str, str, str, Metric],
    comparisons: list[Comparison],
    systems: dict[str, list[IndexCell]],
) -> Section:
    task, version, revision, judge, metric = key
    cells = [index.cells[entry.cell] for found in comparisons for entry in found.entries]
    others = [other for cell in cells for other in systems[cell.system]]
    beside = [] if metric in ("over_refusal", "score") else beside_of(others, judge, task)
    section = Section(task, version, revision, judge, metric, beside)
    ordered = sorted(comparisons, key=lambda found: (found.model, index.cells[found.entries[0].cell].path))
    for found, setting in zip(ordered, settings_of(index, ordered), strict=True):
        section.lines.extend(_lines(index, found, beside, systems, setting))
        if found.power:
            who = f"{found.model} ({setting})" if setting else found.model
            section.power.append(f"{who}: {found.power}.")
    section.judged.extend(judged(section, index))
    return section


def judged(section: Section, index: Index) -> list[str]:
    """Facts about the section's judge, in sentences."""
    said = against_people(section.judge, index.calibrations) if section.metric in RATES else []
    if agreed := agreement(section):
        said.append(f"Agreement with {'; '.join(agreed)}.")
    costs = [line.measure.cost for line in section.lines if line.measure.cost is not None]
    if any(cost.tokens_in != 0 for cost in costs):
        said.append(judging_cost(costs, [line.measure for line in section.lines if line.measure.cost]))
    return said


def judging_cost(costs: list[JudgeCost], measures: list[Measure]) -> str:
    """What a judge with a model took; each part is left open where it is not known of every cell."""
    whole = sum(costs, start=JudgeCost(seconds=0, tokens_in=0, tokens_out=0, price=0))
    answers = sum(measure.n + measure.unscored for measure in measures)
    tokens = [
        "an unknown number of" if count is None else f"{count / answers:.1f}"
        for count in (whole.tokens_in, whole.tokens_out)
    ]
    seconds = "unknown time" if whole.seconds is None else f"{whole.seconds / answers:.2g} s"
    price = "price unknown" if whole.price is None else f"{whole.price:.4f} USD in all"
    return (
        f"Judging took {seconds}, {tokens[0]} prompt and {tokens[1]} reply tokens an answer; {price} "
        f"for {answers} answers."
    )


def agreement(section: Section) -> list[str]:
    """How far the section's judge agrees with each other judge of the same cells."""
    found: dict[str, list[tuple[float, float | None]]] = {}
    for line in section.lines:
        for one in line.cell.agreement:
            if section.judge in (one.first, one.second):
                other = one.second if section.judge == one.first else one.first
                found.setdefault(other, []).append((one.agreement, one.kappa))
    said = []
    for other, values in sorted(found.items()):
        shares = [share for share, _ in values]
        kappas = [kappa for _, kappa in values if kappa is not None]
        text = f"{other}: {span([100 * share for share in shares], 0)} % equal"
        said.append(f"{text}, κ {span(kappas, 2)}" if kappas else text)
    return said


def span(values: list[float], digits: int) -> str:
    """The range of some numbers."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def settings_of(index: Index, comparisons: list[Comparison]) -> list[str]:
    """For each comparison, what tells it from the others of its model; empty where it is alone."""
    facts: list[dict[str, str]] = []
    for found in comparisons:
        cell = index.cells[found.entries[0].cell]
        known = {
            "revision": cell.model_revision[:12],
            "dtype": cell.dtype,
            "attention": cell.attention,
            "seed": cell.seed,
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


def beside_of(cells: list[IndexCell], judge: str, task: str) -> list[Beside]:
    """Over-refusal and utility shown beside a safety task: those that most of its rows have.

    Over-refusal is by the section's own judge where it judged, else by the first one. Of equally common
    tasks those of the same benchmark come first; `MAX_BESIDE` of each kind are shown, all have sections.
    """
    found: dict[tuple[Metric, str, str, str, str], set[Beside]] = defaultdict(set)
    seen: Counter[tuple[Metric, str, str, str, str]] = Counter()
    for cell in {cell.path: cell for cell in cells}.values():
        kinds = {measure.metric for measure in cell.measures} & set(MAX_BESIDE)
        seen.update((kind, *data_of(cell)) for kind in kinds)
        for measure in cell.measures:
            if measure.metric in kinds:
                column = Beside(*data_of(cell), measure.judge, measure.metric)
                found[measure.metric, *data_of(cell)].add(column)
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


def _lines(
    index: Index,
    found: Comparison,
    beside: list[Beside],
    systems: dict[str, list[IndexCell]],
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
        lines.append(
            Line(
                number=entry.cell,
                cell=cell,
                measure=cell.measures[entry.measure],
                rank=entry.rank,
                not_ranked=entry.not_ranked,
                baseline=None if entry.cell in nones else pairs.get(entry.cell),
                beside=[_beside(column, cell, systems[cell.system]) for column in beside],
                setting=setting,
            )
        )
    return lines


def _beside(column: Beside, row: IndexCell, cells: list[IndexCell]) -> BesideValue | None:
    for cell in filter(column.of, cells):
        for measure in cell.measures:
            if (measure.judge, measure.metric) == (column.judge, column.metric):
                reasons = [
                    reason for reason in cell.not_ranked if reason == PARTIAL or reason not in row.not_ranked
                ]
                if too_many_unscored(measure):
                    reasons.append(UNSCORED)
                return BesideValue(
                    value=measure.value,
                    low=measure.low,
                    high=measure.high,
                    metric=measure.metric,
                    answered=cell.answered,
                    items=cell.items,
                    reasons=tuple(reasons),
                )
    return None


def show(value: float | None, metric: Metric) -> str:
    """A value as the board writes it: rates in percent."""
    if value is None:
        return "–"
    if metric in RATES:
        return f"{100 * value:.1f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def show_official(mean: Official, metric: Metric) -> str:
    """An official mean, or a dash with what it lacks."""
    if not mean.absent:
        return show(mean.value, metric)
    named = ", ".join(mean.absent) if len(mean.absent) <= 3 else f"{len(mean.absent)} of {mean.of}"
    return f"– ({named} absent)"


def show_difference(value: float, metric: Metric) -> str:
    """A difference with its sign."""
    text = show(abs(value), metric)
    if not float(text):
        return text
    return f"{'+' if value > 0 else '−'}{text}"


def show_rank(rank: tuple[int, int] | None) -> str:
    """`2`, `1-3`, or a dash where the row does not rank."""
    if rank is None:
        return "–"
    return str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}-{rank[1]}"


def show_p(pair: Pair) -> str:
    """The p-value of a pair, Holm-adjusted where the pair ranks."""
    p = pair.p if pair.p_holm is None else pair.p_holm
    text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return text if pair.p_holm is not None else f"{text}, unadjusted"
