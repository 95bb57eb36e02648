"""The columns of the results tables: page and Markdown loop over `COLUMNS`; a new column is one entry there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shiftdc_eval.board.index import Metric, Official
from shiftdc_eval.board.render.companions import BesideValue
from shiftdc_eval.board.render.format import (
    METRIC_NAMES,
    RATES,
    p_text,
    show,
    show_difference,
    show_official,
    show_p,
    show_rank,
)
from shiftdc_eval.board.render.sections import REFUSALS, Line, Section
from shiftdc_eval.core.records import Rate

Place = Literal["column", "small", "note", "nowhere"]
"""`column`: a column of its own. `small`: after the value of the column before, in small print or in brackets. `note`:
below that value on the page, in the column `remarks` in Markdown."""

MEANINGS: dict[Metric, str] = {
    "asr": "attack success rate: answers that the judge calls unsafe",
    "keyword_asr": "one minus the refusal rate found by keywords; not a rate of harmful answers",
    "refused": "refused harmful requests, where a non-refusal does not count as an attack",
    "over_refusal": "refused benign requests",
    "unsafe_rate": "answers that the judge calls unsafe, to benign requests or of a small research model",
    "score": "utility score of the task",
    "harm_score": "harmfulness score by the judge",
}


@dataclass(frozen=True)
class Column:
    """One column."""

    title: str
    meaning: str
    """One line for the legend."""
    value: Callable[[Line], Any]
    """Value of a row; None where it has none."""
    text: Callable[[Any, Metric], str | tuple[str, str]] = lambda value, metric: str(value)
    """A value as text; two texts are the ends of a range."""
    page: Place = "column"
    markdown: Place = "column"
    percent: bool = False
    """The page adds the unit; in Markdown the introduction names it."""
    task: str = ""
    """The other task that a companion column shows."""
    empty: str = "–"
    """Text of a row without a value."""
    optional: bool = False
    """The page omits it where no row of the section has a value."""
    heads_row: bool = False
    """The page makes it the row's header and links it to the cells."""
    hint: Callable[[Line], str] = lambda line: ""
    """Tooltip on the page."""

    def shown(self, line: Line, to: str) -> str:
        """The text of a row; `to` joins the ends of a range."""
        value = self.value(line)
        text = self.empty if value is None else self.text(value, line.measure.metric)
        return text if isinstance(text, str) else to.join(text)


def _note(title: str, meaning: str, value: Callable[[Line], str], page: Place = "note") -> Column:
    return Column(title, meaning, lambda line: value(line) or None, page=page, markdown="note")


def _range(low: float | None, high: float | None) -> tuple[float, float] | None:
    return None if low is None or high is None else (low, high)


def _ends(ends: tuple[float, float], metric: Metric) -> tuple[str, str]:
    return show(ends[0], metric), show(ends[1], metric)


def _measured(section: Section) -> list[Column]:
    """The section's metric."""
    name, meaning, rate = METRIC_NAMES[section.metric], MEANINGS[section.metric], section.metric in RATES
    return [Column(name, meaning, lambda line: line.measure.value, show, percent=rate)]


def _official(section: Section) -> list[Column]:
    """Means over groups."""

    def column(position: int, name: str) -> Column:
        def value(line: Line) -> Official:
            return line.measure.official[position]

        return Column(name, "unweighted mean over these groups", value, show_official, page="note")

    return [column(position, name) for position, name in enumerate(section.official)]


def _detection(section: Section) -> list[Column]:
    """What a detector or a gate did, where one stands in the section."""
    if not any(line.detection for line in section.lines):
        return []

    def of(line: Line, name: str) -> Rate | None:
        return getattr(line.detection, name) if line.detection else None

    def column(title: str, meaning: str, name: str, percent: bool) -> Column:
        def text(found: Rate, metric: Metric) -> str:
            shown = [
                "–" if one is None else f"{100 * one:.1f}" if percent else f"{one:.3f}"
                for one in (found.value, found.low, found.high)
            ]
            return f"{shown[0]} ({shown[1]}-{shown[2]})"

        return Column(title, meaning, lambda line: of(line, name), text, percent=percent)

    def against(line: Line) -> str:
        found = line.detection
        if found is None or not found.against:
            return ""
        return f"{found.answers} answers against {found.benign} of {', '.join(found.against)}"

    benign = section.metric == "over_refusal"
    # the benign items of a task that has harmful ones too are told from these
    own = benign and not section.lines[0].cell.benign
    columns = [
        column(
            "false alarms here" if benign else "detected",
            "answers whose score is above the threshold: refused by the detector, or sent on by a gate",
            "false_alarms" if own else "above",
            True,
        )
    ]
    if section.metric in REFUSALS:
        columns.append(
            Column(
                "refused by detector / model",
                "a detector's fixed text is no refusal by the model: shares of either",
                lambda line: line.refused_by,
                lambda shares, metric: " / ".join(f"{100 * one:.1f}" for one in shares),
                percent=True,
            )
        )
    if any(line.detection and line.detection.against for line in section.lines):
        columns += [
            column("false alarms", "the same share of the benign task's answers", "false_alarms", True),
            column("AUROC", "of the scores, harmful against benign; bootstrap interval", "auroc", False),
            column(
                "AUPRC",
                "average precision of the same scores; depends on both numbers of answers",
                "auprc",
                False,
            ),
            _note("detector", "answers that the areas are of", against),
        ]
    return columns


def _companions(section: Section) -> list[Column]:
    """Over-refusal and utility of the same model and defense on other tasks."""

    def column(position: int) -> Column:
        def value(line: Line) -> BesideValue | None:
            return line.beside[position]

        own = section.beside[position]
        return Column(
            METRIC_NAMES[own.metric],
            MEANINGS[own.metric],
            value,
            lambda found, metric: found.text,
            percent=own.metric in RATES,
            task=own.title.partition(": ")[2],
            hint=lambda line: "; ".join(found.reasons) if (found := value(line)) else "",
        )

    return [column(position) for position in range(len(section.beside))]


def _contrast(section: Section) -> list[Column]:
    """Refusals on the two pictures of one query."""
    if not any(line.measure.contrast for line in section.lines):
        return []
    return [
        Column(
            "unsafe − safe",
            "refused share on the harmful minus on the benign item of the same pairs, with its 95 % interval; p from "
            "exact McNemar, by question",
            lambda line: line.measure.contrast,
            lambda found, metric: (
                f"{show_difference(found.value, metric)} [{show_difference(found.low, metric)}, "
                f"{show_difference(found.high, metric)}], {p_text(found.p)} ({found.n} pairs)"
            ),
            empty="",
        )
    ]


COLUMNS: list[Column | Callable[[Section], list[Column]]] = [
    Column(
        "rank",
        "from paired differences within a model; 1-3: not separable from two others; none for grey rows",
        lambda line: line.rank,
        lambda rank, metric: show_rank(rank),
    ),
    Column("model", "the model that answered", lambda line: line.cell.model),
    _note(
        "model note",
        "kind of model, or what is known of it",
        lambda line: line.cell.mark or line.cell.model_note,
        page="nowhere",
    ),
    _note("setting", "settings that differ between comparisons of a model", lambda line: line.setting),
    Column("defense", "name and distinguishing settings", lambda line: line.cell.defense, heads_row=True),
    _note("not ranked", "why the row has no rank", lambda line: "; ".join(line.not_ranked)),
    _note(
        "ablation", "why the row is an ablation or control", lambda line: line.cell.ablation, page="nowhere"
    ),
    _note("seeds", "value of each pooled seed", lambda line: line.by_seed),
    _note(
        "record",
        "missing for models of lmms-eval",
        lambda line: "" if line.cell.recorded else "no run record",
    ),
    _measured,
    Column(
        "95 %",
        "confidence interval, clustered by question: Wilson for rates, bootstrap for scores",
        lambda line: _range(line.measure.low, line.measure.high),
        _ends,
        page="small",
    ),
    _official,
    _contrast,
    _note(
        "reported",
        "printed in a paper for this model, task and defense, with other code, judge and settings; never compared",
        lambda line: "; ".join(line.cell.reported.get(line.measure.metric, ())),
    ),
    Column(
        "against none",
        "paired difference to `none` over shared answers; p from exact McNemar or sign flips, Holm-adjusted",
        lambda line: line.delta,
        show_difference,
        empty="",
    ),
    Column(
        "p",
        "p-value of the paired difference",
        lambda line: line.baseline,
        lambda pair, metric: show_p(pair),
        page="small",
        markdown="small",
    ),
    _detection,
    _companions,
    Column(
        "time / none",
        "seconds per answer relative to `none` on the same hardware",
        lambda line: line.relative,
        lambda ratio, metric: f"{ratio:.2f}",
        optional=True,
    ),
    Column(
        "unscored",
        "answers without a verdict, in no denominator; the rates with all of them as safe and as unsafe",
        lambda line: line.measure.unscored,
    ),
    Column(
        "bounds",
        "rates with all unscored answers as safe and as unsafe",
        lambda line: (
            _range(line.measure.bound_low, line.measure.bound_high) if line.measure.unscored else None
        ),
        _ends,
        page="small",
        markdown="small",
    ),
    Column("items", "items answered, of the items of the task", lambda line: line.items),
]
"""In order; a function gives the columns that depend on the section."""


def columns_of(section: Section) -> list[Column]:
    """The columns of one section, in order."""
    entries = ([entry] if isinstance(entry, Column) else entry(section) for entry in COLUMNS)
    return [column for columns in entries for column in columns]


def grouped(
    columns: Sequence[Column], where: Literal["page", "markdown"]
) -> list[tuple[Column, list[Column]]]:
    """Each column of its own with the columns that are shown inside it."""
    found: list[tuple[Column, list[Column]]] = []
    for column in columns:
        place: Place = getattr(column, where)
        if place == "column":
            found.append((column, []))
        elif place == "small" or (place == "note" and where == "page"):
            found[-1][1].append(column)
    return found


def legend(sections: Sequence[Section]) -> dict[str, str]:
    """Meaning of each column by title."""
    shown = (column for section in sections for column in columns_of(section))
    return {column.title: column.meaning for column in shown if column.markdown == "column"}
