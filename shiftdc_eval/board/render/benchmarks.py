"""The details: for each model and task one table with a column a judge, and tables by group and of detectors."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from shiftdc_eval.board.defense_labels import is_drawn, settings_but_draw
from shiftdc_eval.board.detection import TEMPLATE
from shiftdc_eval.board.index import (
    NO_BENIGN,
    Comparison,
    Entry,
    Index,
    IndexCell,
    Measure,
    Metric,
    Overview,
    OverviewRow,
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
    show_official,
    show_p,
)
from shiftdc_eval.board.render.overview import TIME, pooled
from shiftdc_eval.board.render.tables import Part, Row, Table, Value
from shiftdc_eval.core.records import Rate

NAMES = METRIC_NAMES | {
    "keyword_asr": "not refused",
    "refused": "not refused",
    "unsafe_rate": "unsafe",
    "score": "lost against none",
}
"""Titles of columns in which lower is better."""
FLIPPED: tuple[Metric, ...] = ("refused",)
"""Shares that the index holds the other way round."""
REFUSALS: tuple[Metric, ...] = ("keyword_asr", "refused", "over_refusal")
BESIDE = {"over_refusal": "over-refusal %", "utility_lost": "utility lost"}
"""Numbers of the overview that stand beside a task's own."""
DETECTOR_HEADS = [
    ("detected", "%"),
    ("refused by detector / model", "%"),
    ("false alarms", "%"),
    ("AUROC", ""),
    ("AUPRC", ""),
]
MAX_GROUPS = 20


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
        self._index, self._own, self._overview = index, own, overview
        self._blank = [one for one in blank if (one.judge, one.metric) == (own[0].judge, own[0].metric)][:1]
        self._summary = {family(index.cells[row.cells[0]]): row for row in overview.rows}
        found: dict[str, list[Entry]] = defaultdict(list)
        for entry in (entry for one in own for entry in one.entries if NO_BENIGN not in entry.not_ranked):
            found[family(index.cells[entry.cell])].append(entry)
        order = list(self._summary)
        self.rows = sorted(
            found, key=lambda key: (order.index(key) if key in order else len(order), self._label(found[key]))
        )
        self._entries = found

    def benchmark(self, setting: str) -> Benchmark:
        """The task's tables and what a reader must know of it."""
        first, cell = self._own[0], _cell(self._index, self._own[0])
        version = cell.version.removeprefix("v")
        title = (
            cell.task_title + (f" v{version}" if version != "1" else "") + (f", {setting}" if setting else "")
        )
        about = (
            [f"Control: the requests of {cell.twin_of} with a plain grey image each."] if cell.twin_of else []
        )
        about += [means_of(cell.task).remark] if means_of(cell.task).remark else []
        about += [f"{NAMES[first.metric]}: {first.power}."] if first.power else []
        items = f"{cell.items} items"
        about += [f"{items}, all answered." if self._complete() else f"{items}."]
        about += [f"Data revision {cell.revision[:40]}."] if cell.revision else []
        more = [table for table in [self._detectors(title)] if table] + self._groups(title)
        return Benchmark(title, about, self._table(title), more, not cell.twin_of)

    def _table(self, title: str) -> Table:
        cell = _cell(self._index, self._own[0])
        names = [self._judge(one) for one in self._own]
        columns = [(NAMES[one.metric], name) for one, name in zip(self._own, names, strict=True)]
        heads = [
            (f"{head} %" if head not in ("lost against none", "harm score") else head, by)
            for head, by in columns
        ]
        heads += [(f"{NAMES[one.metric]} %", "blank images") for one in self._blank]
        against = self._own[0].metric != "score"
        heads += [("against none", "points")] if against else []
        summary = list(self._summary.values())
        known = {"over_refusal": not cell.benign, "utility_lost": cell.task not in self._overview.utility}
        beside = [name for name in known if known[name] and any(getattr(row, name) for row in summary)]
        heads += [(BESIDE[name], "together") for name in beside]
        timed = any(entry_cell.relative is not None for entry_cell in self._cells())
        heads += [(TIME, "")] if timed else []
        unscored = any(one.unscored for found in self._entries.values() for one in map(self._measure, found))
        heads += [("unscored", "")] if unscored else []
        heads += [("items", "")] if not self._complete() else []
        rows = []
        for key in self.rows:
            values = [self._value(one, key) for one in [*self._own, *self._blank]]
            values += [self._against(key)] if against else []
            values += [self._beside(key, name) for name in beside]
            values += [self._time(key)] if timed else []
            values += [self._unscored(key)] if unscored else []
            values += [Value(self._items(key))] if not self._complete() else []
            rows.append(self._row(key, values))
        return Table(title, heads, [Part("", rows)])

    def _cells(self) -> list[IndexCell]:
        return [self._index.cells[entry.cell] for entries in self._entries.values() for entry in entries]

    def _judge(self, found: Comparison) -> str:
        models = sorted({model for entry in found.entries for model in self._measure(entry).models})
        name = found.judge.partition("@")[0] + (f" ({', '.join(models)})" if models else "")
        alike = [one for one in self._own if one.judge.partition("@")[0] == found.judge.partition("@")[0]]
        return name if models or len({one.judge for one in alike}) == 1 else found.judge

    def _label(self, entries: Sequence[Entry]) -> str:
        labels = {self._index.cells[entry.cell].defense for entry in entries}
        return labels.pop() if len(labels) == 1 else self._index.cells[entries[0].cell].defense_name

    def _row(self, key: str, values: list[Value]) -> Row:
        entries = self._entries[key]
        cells = list(dict.fromkeys(number for entry in entries for number in (entry.cell, *entry.also)))
        drawn = len({self._index.cells[number].system for number in cells})
        reasons = [
            reason
            for entry in entries
            for reason in entry.not_ranked
            if reason not in ("ablation", "control")
        ]
        why = [
            self._index.cells[entry.cell].ablation.removeprefix("ablation: ").removeprefix("control: ")
            for entry in entries
        ]
        notes = list(dict.fromkeys(filter(None, [*why, *reasons])))
        if drawn > 1:
            notes.append(f"{drawn} random directions, lowest to highest")
        if not all(self._index.cells[number].recorded for number in cells):
            notes.append("no run record")
        return Row(self._label(entries), values, cells, notes, not any(entry.not_ranked for entry in entries))

    def _of(self, found: Comparison, key: str) -> list[Entry]:
        return [entry for entry in found.entries if family(self._index.cells[entry.cell]) == key]

    def _measure(self, entry: Entry) -> Measure:
        return entry.pooled or self._index.cells[entry.cell].measures[entry.measure]

    def _value(self, found: Comparison, key: str) -> Value:
        entries = self._of(found, key)
        if not entries:
            return Value()
        measures = [self._measure(entry) for entry in entries]
        metric = found.metric
        if len(entries) > 1:
            known = sorted(lower_better(one.value, metric) for one in measures if one.value is not None)
            span = dict.fromkeys(show(one, metric) for one in known[:: max(1, len(known) - 1)])
            return Value("–".join(span)) if known else Value()
        measure, cell = measures[0], self._index.cells[entries[0].cell]
        notes = [*self._by_seed(entries[0], measure), *_official(measure)]
        if one := measure.contrast:
            ends = f"{show_difference(one.low, metric)} to {show_difference(one.high, metric)}"
            notes.append(
                f"refused, unsafe − safe pictures: {show_difference(one.value, metric)} ({ends}), "
                f"{p_text(one.p)} ({one.n} pairs)"
            )
        printed = cell.reported.get(metric, [])
        if metric != "score":
            ends = _ends(measure)
            return Value(_shown(measure), ends, notes, printed)
        pair = self._pair(found, entries[0])
        lost = (
            "0" if cell.defense_name == "none" else "–" if pair is None else show_difference(pair[0], metric)
        )
        small = f"score {show(measure.value, metric)}" + (
            f" ({_ends(measure)})" if measure.low is not None else ""
        )
        return Value(lost, small, [*([show_p(pair[1])] if pair else []), *notes], printed)

    def _by_seed(self, entry: Entry, measure: Measure) -> list[str]:
        if entry.pooled is None:
            return []
        cells = [self._index.cells[number] for number in (entry.cell, *entry.also)]
        own = [
            _shown(one)
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
        pairs = []
        for pair in found.pairs:
            other = {pair.first, pair.second} - {entry.cell}
            if len(other) == 1 and self._index.cells[other.pop()].defense_name == "none":
                pairs.append((sign * (pair.value if pair.first == entry.cell else -pair.value), pair))
        return pairs[-1] if pairs else None

    def _against(self, key: str) -> Value:
        entries = self._of(self._own[0], key)
        pair = self._pair(self._own[0], entries[0]) if len(entries) == 1 else None
        return (
            Value("")
            if pair is None
            else Value(show_difference(pair[0], self._own[0].metric), show_p(pair[1]))
        )

    def _beside(self, key: str, name: str) -> Value:
        row: OverviewRow | None = self._summary.get(key)
        return Value(pooled(getattr(row, name), row.kind == "none").text) if row else Value()

    def _time(self, key: str) -> Value:
        known = [one.relative for one in self._cells() if family(one) == key and one.relative is not None]
        return Value(f"{sum(known) / len(known):.2f}×") if known else Value()

    def _unscored(self, key: str) -> Value:
        entries = self._of(self._own[0], key)
        if len(entries) != 1:
            return Value(str(sum(self._measure(entry).unscored for entry in entries)) if entries else "–")
        measure = self._measure(entries[0])
        if not measure.unscored or measure.bound_low is None or measure.bound_high is None:
            return Value(str(measure.unscored))
        ends = sorted(lower_better(one, measure.metric) for one in (measure.bound_low, measure.bound_high))
        return Value(str(measure.unscored), f"bounds {percent(ends[0])}–{percent(ends[1])}")

    def _complete(self) -> bool:
        """Whether every row answered every item once: then the table needs no column on it."""
        return all(
            cell.answered == cell.items and not entry.also
            for found in self._entries.values()
            for entry in found
            for cell in [self._index.cells[entry.cell]]
        )

    def _items(self, key: str) -> str:
        entry = self._entries[key][0]
        cells = [self._index.cells[number] for number in (entry.cell, *entry.also)]
        times = f" × {len(cells)} seeds" if len(cells) > 1 else ""
        return f"{min(cell.answered for cell in cells)}/{cells[0].items}{times}"

    def _detectors(self, title: str) -> Table | None:
        """What the scores of detectors and gates say of the task."""
        rows = []
        for key in self.rows:
            entry = self._entries[key][0]
            found = self._index.cells[entry.cell].detection
            if found is None:
                continue
            against = f"{found.answers} answers against {found.benign} of {', '.join(found.against)}"
            values = [_rate(found.above, 100), Value(refused_by(self._measure(entry)))]
            values += [_rate(found.false_alarms, 100), _rate(found.auroc, 1), _rate(found.auprc, 1)]
            rows.append(self._row(key, values))
            rows[-1] = Row(rows[-1].name, values, rows[-1].cells, [against] if found.against else [])
        return Table(f"{title}: detectors and gates", DETECTOR_HEADS, [Part("", rows)]) if rows else None

    def _groups(self, title: str) -> list[Table]:
        """Results of the first judge by each kind of group."""
        found = {
            key: self._measure(entries[0]) for key in self.rows if (entries := self._of(self._own[0], key))
        }
        tables = []
        for kind in sorted({kind for measure in found.values() for kind in measure.groups}):
            names = sorted({name for measure in found.values() for name in measure.groups.get(kind, {})})
            if len(names) > MAX_GROUPS:
                continue
            rows = []
            for key, measure in found.items():
                own = measure.groups.get(kind, {})
                shares = [
                    lower_better(own[name].value, measure.metric) if name in own else None for name in names
                ]
                rows.append(
                    Row(self._label(self._entries[key]), [Value(show(one, measure.metric)) for one in shares])
                )
            first = self._own[0]
            unit = "score" if first.metric == "score" else f"{NAMES[first.metric]} %"
            heads = [(name, "") for name in names]
            tables.append(Table(f"{title} by {kind.replace('_', ' ')}: {unit}", heads, [Part("", rows)]))
        return tables


def lower_better(value: float, metric: Metric) -> float:
    """A share in the direction of the page."""
    return 1 - value if metric in FLIPPED else value


def refused_by(measure: Measure) -> str:
    """Shares refused by a detector's fixed text and by the model; a dash without a refusal judge."""
    if measure.metric not in REFUSALS or measure.value is None:
        return "–"
    template = measure.groups.get("flag", {}).get(TEMPLATE)
    refused, part = measure.value, 0.0 if template is None else template.value
    if measure.metric == "keyword_asr":
        refused, part = 1 - refused, 1 - part
    by_detector = part * template.n / measure.n if template else 0.0
    return f"{percent(by_detector)} / {percent(refused - by_detector)}"


def _shown(measure: Measure) -> str:
    return show(
        None if measure.value is None else lower_better(measure.value, measure.metric), measure.metric
    )


def _official(measure: Measure) -> list[str]:
    said = []
    for mean in measure.official:
        value = None if mean.value is None else lower_better(mean.value, measure.metric)
        said.append(f"{mean.name} {show_official(mean.model_copy(update={'value': value}), measure.metric)}")
    return said


def _ends(measure: Measure) -> str:
    if measure.low is None or measure.high is None:
        return ""
    ends = sorted(lower_better(end, measure.metric) for end in (measure.low, measure.high))
    return "–".join(show(end, measure.metric) for end in ends)


def _rate(found: Rate | None, factor: int) -> Value:
    if found is None or found.value is None:
        return Value()
    text = "{:.1f}" if factor == 100 else "{:.3f}"
    ends = [text.format(factor * end) for end in (found.low, found.high) if end is not None]
    return Value(text.format(factor * found.value), "–".join(ends))
