"""The details: for each model and task one table with a column a judge, and tables by group and of detectors."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from shiftdc_eval.board.defense_labels import is_drawn, settings_but_draw
from shiftdc_eval.board.index import (
    NO_BENIGN,
    Comparison,
    Entry,
    Index,
    IndexCell,
    Measure,
    Overview,
    Pair,
)
from shiftdc_eval.board.official_means import means_of
from shiftdc_eval.board.render.format import (
    METRIC_NAMES,
    differing,
    p_text,
    percent,
    show,
    show_difference,
    show_p,
)
from shiftdc_eval.board.render.measures import (
    FLIPPED,
    NAMES,
    group_value,
    heading,
    interval_of,
    lower_better,
    official,
    rate_value,
    refused_by,
    value_of,
)
from shiftdc_eval.board.render.overview import TIME, pooled
from shiftdc_eval.board.render.tables import Part, Row, Table, Value

DETECTOR_HEADS = [
    ("detected", "%, higher is better"),
    ("refused by detector / model", "%"),
    ("false alarms", "%"),
    ("AUROC", "1 is best"),
    ("AUPRC", "1 is best"),
]
MAX_GROUPS = 20
Column = tuple[tuple[str, str], Callable[[str], Value]]
"""Heading of a column, and its value by row."""


@dataclass(frozen=True)
class Benchmark:
    """One task of one model."""

    title: str
    about: list[str]
    """Caveats, the data's revision, and what the number of answers cannot show."""
    table: Table
    more: list[Table]
    """Detectors, and results by group."""
    primary: bool
    """Whether harm, benign answers or utility are measured: a table without them needs no word on what is missing."""


def benchmarks(index: Index, overview: Overview) -> list[Benchmark]:
    """The tasks of one overview: harm first, then benign sets, then utility."""
    together: dict[tuple[str, ...], list[Comparison]] = defaultdict(list)
    for found in index.comparisons:
        cell = index.cells[found.entries[0].cell]
        if cell.subject == overview.subject:
            generation = json.dumps(cell.generation, sort_keys=True)
            together[cell.task, cell.version, cell.revision, generation].append(found)
    order = list(METRIC_NAMES)
    for own in together.values():
        own.sort(key=lambda one: (one.judge != overview.judge, order.index(one.metric), one.judge))
    made = []
    keys = sorted(together, key=lambda key: (min(order.index(one.metric) for one in together[key]), key))
    for key in keys:
        blank = [one for other in keys for one in together[other] if _cell(index, one).twin_of == key[0]]
        siblings = [json.loads(other[3]) | {"data": other[2][:12]} for other in keys if other[:2] == key[:2]]
        setting = differing(json.loads(key[3]) | {"data": key[2][:12]}, siblings)
        task = _Task(index, overview, together[key], blank)
        if task.rows:
            made.append(task.benchmark(setting))
    return made


def _cell(index: Index, found: Comparison) -> IndexCell:
    return index.cells[found.entries[0].cell]


def family(cell: IndexCell) -> str:
    """The same for the random directions of one control, else for the cells of one defense."""
    if not is_drawn(cell):
        return cell.system
    own = [cell.subject, cell.defense_name, settings_but_draw(cell), cell.ablation, cell.not_ranked]
    return json.dumps(own, sort_keys=True)


class _Task:
    """One task of one model, with the comparisons of each judge; the first is by the overview's judge."""

    def __init__(
        self, index: Index, overview: Overview, own: Sequence[Comparison], blank: Sequence[Comparison]
    ) -> None:
        self._index, self._overview, self._first = index, overview, own[0]
        self._cell = _cell(index, own[0])
        self._own = [(one, self._by_family(one)) for one in own]
        alike = [one for one in blank if (one.judge, one.metric) == (own[0].judge, own[0].metric)]
        self._blank = [(one, self._by_family(one)) for one in alike[:1]]
        self._summary = {family(index.cells[row.cells[0]]): row for row in overview.rows}
        self._entries: dict[str, list[Entry]] = defaultdict(list)
        for _, found in self._own:
            for key, entries in found.items():
                self._entries[key] += entries
        order = {key: place for place, key in enumerate(self._summary)}
        self.rows = sorted(self._entries, key=lambda key: (order.get(key, len(order)), self._label(key)))
        self._complete = all(
            cell.answered == cell.items and not entry.also
            for entries in self._entries.values()
            for entry in entries
            for cell in [index.cells[entry.cell]]
        )

    def _by_family(self, found: Comparison) -> dict[str, list[Entry]]:
        families: dict[str, list[Entry]] = defaultdict(list)
        for entry in found.entries:
            if NO_BENIGN not in entry.not_ranked:
                families[family(self._index.cells[entry.cell])].append(entry)
        return families

    def benchmark(self, setting: str) -> Benchmark:
        """The task's tables and what a reader must know of it."""
        cell, version = self._cell, self._cell.version.removeprefix("v")
        title = cell.task_title + (f" v{version}" if version != "1" else "") + (setting and f", {setting}")
        about = [
            cell.twin_of and f"Control: the requests of {cell.twin_of} with a plain grey image each.",
            means_of(cell.task).remark,
            self._first.power and f"{NAMES[self._first.metric]}: {self._first.power}.",
            f"{cell.items} items, all answered." if self._complete else f"{cell.items} items.",
            cell.revision and f"Data revision {cell.revision[:40]}.",
        ]
        more = [*self._detectors(title), *self._groups(title)]
        return Benchmark(title, [one for one in about if one], self._table(title), more, not cell.twin_of)

    def _table(self, title: str) -> Table:
        """A column a judge; of the others those that say something."""
        judged: list[Column] = [
            ((heading(one.metric), self._judge(one)), partial(self._value, one, of)) for one, of in self._own
        ]
        beside: list[Column] = [
            *(
                ((heading(one.metric), "blank images"), partial(self._value, one, of))
                for one, of in self._blank
            ),
            (("against none", "points"), self._against),
            (("over-refusal %", "together"), self._over_refusal),
            (("utility lost", "together"), self._utility_lost),
            ((TIME, ""), self._time),
            (("unscored", ""), self._unscored),
            (("items", ""), self._items),
        ]
        columns = [(head, [value(key) for key in self.rows]) for head, value in [*judged, *beside]]
        columns = [
            (head, values)
            for place, (head, values) in enumerate(columns)
            if place < len(judged) or any(one.text not in ("", "–", "0") for one in values)
        ]
        rows = [self._row(key, [values[at] for _, values in columns]) for at, key in enumerate(self.rows)]
        return Table(title, [head for head, _ in columns], [Part("", rows)])

    def _judge(self, found: Comparison) -> str:
        models = sorted({model for entry in found.entries for model in self._measure(entry).models})
        name = found.judge.partition("@")[0]
        if models:
            return f"{name} ({', '.join(models)})"
        alike = {one.judge for one, _ in self._own if one.judge.partition("@")[0] == name}
        return name if len(alike) == 1 else found.judge

    def _label(self, key: str) -> str:
        cells = [self._index.cells[entry.cell] for entry in self._entries[key]]
        return cells[0].defense if len({cell.defense for cell in cells}) == 1 else cells[0].defense_name

    def _row(self, key: str, values: list[Value]) -> Row:
        entries = self._entries[key]
        numbers = list(dict.fromkeys(number for entry in entries for number in (entry.cell, *entry.also)))
        cells = [self._index.cells[number] for number in numbers]
        notes = [cell.ablation.removeprefix("ablation: ").removeprefix("control: ") for cell in cells]
        notes += [one for entry in entries for one in entry.not_ranked if one not in ("ablation", "control")]
        if (drawn := len({cell.system for cell in cells})) > 1:
            notes.append(f"{drawn} random directions, lowest to highest")
        if not all(cell.recorded for cell in cells):
            notes.append("no run record")
        notes = [note for note in dict.fromkeys(notes) if note]
        return Row(self._label(key), values, numbers, notes, not any(one.not_ranked for one in entries))

    def _measure(self, entry: Entry) -> Measure:
        return entry.pooled or self._index.cells[entry.cell].measures[entry.measure]

    def _value(self, found: Comparison, families: Mapping[str, Sequence[Entry]], key: str) -> Value:
        entries, metric = families.get(key, []), found.metric
        if len(entries) != 1:
            values = [value for entry in entries if (value := self._measure(entry).value) is not None]
            known = sorted(lower_better(value, metric) for value in values)
            return Value(
                "–".join(dict.fromkeys(show(one, metric) for one in [*known[:1], *known[-1:]])) or "–"
            )
        (entry,) = entries
        measure, cell = self._measure(entry), self._index.cells[entry.cell]
        notes = [*self._by_seed(entry, measure), *official(measure)]
        if one := measure.contrast:
            ends = f"{show_difference(one.low, metric)} to {show_difference(one.high, metric)}"
            notes.append(
                f"refused, unsafe − safe pictures: {show_difference(one.value, metric)} ({ends}), "
                f"{p_text(one.p)} ({one.n} pairs)"
            )
        printed, ends = cell.reported.get(metric, []), interval_of(measure)
        if metric != "score":
            return Value(value_of(measure), ends, notes, printed)
        small = f"score {show(measure.value, metric)}" + (ends and f" ({ends})")
        if cell.defense_name == "none":
            return Value("0", small, notes, printed)
        pair = self._pair(found, entry)
        if pair is None:
            return Value("–", small, notes, printed)
        return Value(show_difference(pair[0], metric), small, [show_p(pair[1]), *notes], printed)

    def _by_seed(self, entry: Entry, measure: Measure) -> list[str]:
        if entry.pooled is None:
            return []
        cells = [self._index.cells[number] for number in (entry.cell, *entry.also)]
        own = [
            value_of(one)
            for cell in cells
            for one in cell.measures
            if (one.judge, one.metric) == (measure.judge, measure.metric)
        ]
        return [f"seeds {', '.join(str(cell.seed) for cell in cells)}: {', '.join(own)}"]

    def _pair(self, found: Comparison, entry: Entry) -> tuple[float, Pair] | None:
        """Difference to `none`, positive where this defense is worse."""
        if self._index.cells[entry.cell].defense_name == "none":
            return None
        sign = -1 if found.metric in (*FLIPPED, "score") else 1
        for pair in found.pairs:
            own = 1 if pair.first == entry.cell else -1
            other = pair.second if own == 1 else pair.first
            if entry.cell in (pair.first, pair.second) and self._index.cells[other].defense_name == "none":
                return sign * own * pair.value, pair
        return None

    def _against(self, key: str) -> Value:
        entries, metric = self._own[0][1].get(key, []), self._first.metric
        pair = self._pair(self._first, entries[0]) if len(entries) == 1 and metric != "score" else None
        return Value(show_difference(pair[0], metric), show_p(pair[1])) if pair else Value("")

    def _over_refusal(self, key: str) -> Value:
        row = None if self._cell.benign else self._summary.get(key)
        return Value(pooled(row.over_refusal).text) if row else Value()

    def _utility_lost(self, key: str) -> Value:
        row = None if self._cell.task in self._overview.utility else self._summary.get(key)
        return Value(pooled(row.utility_lost, row.kind == "none").text) if row else Value()

    def _time(self, key: str) -> Value:
        cells = [self._index.cells[entry.cell] for entry in self._entries[key]]
        known = [cell.relative for cell in cells if cell.relative is not None]
        return Value(f"{sum(known) / len(known):.2f}×") if known else Value()

    def _unscored(self, key: str) -> Value:
        measures = [self._measure(entry) for entry in self._own[0][1].get(key, [])]
        unscored = str(sum(one.unscored for one in measures)) if measures else "–"
        if len(measures) != 1 or measures[0].bound_low is None or measures[0].bound_high is None:
            return Value(unscored)
        ends = sorted(
            lower_better(one, self._first.metric) for one in (measures[0].bound_low, measures[0].bound_high)
        )
        return Value(unscored, f"bounds {percent(ends[0])}–{percent(ends[1])}" if unscored != "0" else "")

    def _items(self, key: str) -> Value:
        entry = self._entries[key][0]
        cells = [self._index.cells[number] for number in (entry.cell, *entry.also)]
        times = f" × {len(cells)} seeds" if len(cells) > 1 else ""
        answered = f"{min(cell.answered for cell in cells)}/{cells[0].items}{times}"
        return Value("" if self._complete else answered)

    def _detectors(self, title: str) -> Iterator[Table]:
        """What the scores of detectors and gates say of the task."""
        rows = []
        for key in self.rows:
            entry = self._entries[key][0]
            if (found := self._index.cells[entry.cell].detection) is None:
                continue
            values = [rate_value(found.above, 100), Value(refused_by(self._measure(entry)))]
            values += [
                rate_value(found.false_alarms, 100),
                rate_value(found.auroc, 1),
                rate_value(found.auprc, 1),
            ]
            against = f"{found.answers} answers against {found.benign} of {', '.join(found.against)}"
            rows.append(Row(self._label(key), values, [entry.cell], [against] if found.against else []))
        if rows:
            yield Table(f"{title}: detectors and gates", DETECTOR_HEADS, [Part("", rows)])

    def _groups(self, title: str) -> Iterator[Table]:
        """Results of the first judge by each kind of group."""
        metric, families = self._first.metric, self._own[0][1]
        found = {key: self._measure(families[key][0]) for key in self.rows if key in families}
        none = next((one for key, one in found.items() if self._label(key) == "none"), None)
        for kind in sorted({kind for measure in found.values() for kind in measure.groups}):
            names = sorted({name for measure in found.values() for name in measure.groups.get(kind, {})})
            if not 1 < len(names) <= MAX_GROUPS:
                continue
            base = none.groups.get(kind, {}) if none else {}
            rows = []
            for key, measure in found.items():
                own = measure.groups.get(kind, {})
                values = [group_value(own.get(name), base.get(name), metric) for name in names]
                rows.append(Row(self._label(key), values))
            heads = [(name, "") for name in names]
            yield Table(f"{title} by {kind.replace('_', ' ')}: {heading(metric)}", heads, [Part("", rows)])
