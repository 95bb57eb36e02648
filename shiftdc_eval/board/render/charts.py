"""Geometry of the page's two plots; the template draws them as inline SVG.

A plot takes 1.4 kB on average; matplotlib's SVG of a forest plot takes 11 kB, too much for a page below 300 kB.
Both are 360 units wide, so that text stays readable on a phone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from shiftdc_eval.board.index import Metric, lower_is_better
from shiftdc_eval.board.render.format import METRIC_NAMES, RATES, shorten, show
from shiftdc_eval.board.render.sections import Section

WIDTH = 360
LABEL = 160
"""Width of a forest plot's labels."""
ROW = 17
HEIGHT, LEFT, BOTTOM, TOP = 250, 40, 40, 12
"""Height and margins of a scatter plot."""
COLOURS = 6
"""Colours of the palette; with more models, shapes tell them apart."""
SHAPES = 3
MAX_ROWS = 60


class Axis:
    """A linear axis with round ticks; rates span 0 to 1, scores the range of the values."""

    def __init__(self, values: list[float], metric: Metric, start: float, end: float) -> None:
        rate = metric in RATES
        self._ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if rate else nice_ticks(min(values), max(values))
        self._start, self._length, self._unit = start, end - start, 100 if rate else 1
        self.ticks = [(self.at(tick), f"{self._unit * tick:g}") for tick in self._ticks]
        """(position, text) of each tick."""

    def at(self, value: float) -> float:
        """Position of a value; values outside the ticks lie at the ends."""
        low, high = self._ticks[0], self._ticks[-1]
        return round(self._start + self._length * min(1.0, max(0.0, (value - low) / (high - low))), 1)


class ForestRow(NamedTuple):
    """One interval, or a heading, which has no numbers."""

    y: float
    label: str
    low: float = 0
    value: float = 0
    high: float = 0
    said: str = ""
    """Tooltip; empty for a heading."""
    plain: bool = False
    """True for `none` and for rows without a rank."""


class Dot(NamedTuple):
    """One model with one defense."""

    x: float
    y: float
    colour: int
    shape: int
    label: str
    label_x: float
    label_y: float
    anchor: str
    said: str
    """Tooltip."""


@dataclass(frozen=True)
class Forest:
    """Intervals of a section."""

    height: float
    ticks: list[tuple[float, str]]
    rows: list[ForestRow]
    title: str


@dataclass(frozen=True)
class Scatter:
    """Failures against utility."""

    x: Axis
    y: Axis
    x_title: str
    y_title: str
    better: str
    """Where the good values of y are: `below` or `above`."""
    dots: list[Dot]
    models: list[tuple[int, int, str]]
    """(colour, shape, model) of the legend."""


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that span [low, high]."""
    raw = max(high - low, 1e-9) / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw - 1e-12)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def forest(section: Section) -> Forest | None:
    """The section's intervals by model; None when there is nothing to compare, or too much."""
    found = []
    for line in section.lines:
        m = line.measure
        if m.value is not None:
            ends = (m.value if m.low is None else m.low, m.value, m.value if m.high is None else m.high)
            found.append((line, ends))
    if not 2 <= len(found) <= MAX_ROWS:
        return None
    metric, unit = section.metric, " %" if section.metric in RATES else ""
    axis = Axis([end for _, ends in found for end in ends], section.metric, LABEL, WIDTH - 14)
    rows: list[ForestRow] = []
    y, model = 0, None
    for line, ends in found:
        heading = f"{line.cell.model}, {line.setting}" if line.setting else line.cell.model
        if heading != model:
            model = heading
            y += ROW
            rows.append(ForestRow(y, shorten(heading, 50)))
        y += ROW
        interval = (
            "" if line.measure.low is None else f" ({show(ends[0], metric)} to {show(ends[2], metric)})"
        )
        said = f"{line.cell.defense}: {show(ends[1], metric)}{unit}{interval}"
        plain = line.cell.defense_name == "none" or line.rank is None
        low, value, high = map(axis.at, ends)
        rows.append(ForestRow(y, shorten(brief(line.cell.defense), 27), low, value, high, said, plain))
    title = METRIC_NAMES[metric] + ("," + unit if unit else "")
    return Forest(y + 24, axis.ticks, rows, f"{title}, with 95 % intervals")


def scatter(section: Section) -> Scatter | None:
    """Failures against the first utility score beside them; None for fewer than two points with both, or too many."""
    number = next((n for n, beside in enumerate(section.beside) if beside.metric == "score"), None)
    if number is None:
        return None
    points = []
    for line in section.lines:
        utility, value = line.beside[number], line.measure.value
        if utility and utility.whole and utility.result.measure.value is not None and value is not None:
            points.append((utility.result.measure.value, value, line.cell.model, line.cell.defense))
    if not 2 <= len(points) <= MAX_ROWS:
        return None
    metric, title = section.metric, section.beside[number].title
    x = Axis([point[0] for point in points], "score", LEFT, WIDTH - 20)
    y = Axis([point[1] for point in points], metric, HEIGHT - BOTTOM, TOP)
    models = sorted({point[2] for point in points})
    dots = []
    taken = [(x.at(across) - 4, x.at(across) + 4, y.at(up) + 3.5) for across, up, _, _ in points]
    for across, up, model, defense in sorted(points):
        at, height, label = x.at(across), y.at(up), shorten(brief(defense), 27)
        side, anchor = (-1, "end") if at > WIDTH * 0.7 else (1, "start")
        label_x = at + 7 * side
        label_y = _free(label_x, height + 3.5, 5.2 * len(label) * side, taken)
        said = f"{model}, {defense}: {show(up, metric)}, {title} {across:g}"
        place = models.index(model)
        dots.append(
            Dot(at, height, place % COLOURS, place % SHAPES, label, round(label_x, 1), label_y, anchor, said)
        )
    return Scatter(
        x,
        y,
        x_title=title.replace("score", "utility", 1),
        y_title=METRIC_NAMES[metric] + (", %" if metric in RATES else ""),
        better="below" if lower_is_better(metric) else "above",
        dots=dots,
        models=[(place % COLOURS, place % SHAPES, model) for place, model in enumerate(models)],
    )


def _free(x: float, y: float, width: float, taken: list[tuple[float, float, float]]) -> float:
    """A height near y at which a label does not overlap another one; y itself where there is none."""
    left, right = min(x, x + width), max(x, x + width)

    def clear(at: float) -> bool:
        apart = all(abs(at - other) >= 9 or right < a or left > b for a, b, other in taken)
        return apart and 8 < at < HEIGHT - BOTTOM

    at = next(filter(clear, (y + step for step in (0, -9, 9, -18, 18, -27, 27))), y)
    taken.append((left, right, at))
    return round(at, 1)


def brief(label: str) -> str:
    """A defense's label for a plot: values without their names, switches by name."""
    name, bracket, settings = label.partition(" (")
    settings, closed, rest = settings.partition(")")
    if not bracket or not closed:
        return label
    pairs = [setting.partition("=") for setting in settings.split(", ")]
    words = [{"true": key, "false": f"not {key}"}.get(value, value) for key, _, value in pairs]
    return f"{name} {' '.join(words)}{rest}"
