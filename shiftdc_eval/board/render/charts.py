"""Geometry of the page's two plots; the template draws them as inline SVG.

Both are 360 units wide, so that text stays readable on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shiftdc_eval.board.index import Measure, lower_is_better
from shiftdc_eval.board.render.format import METRIC_NAMES, RATES, show
from shiftdc_eval.board.render.sections import Section

WIDTH = 360
LABEL = 160
"""Width of a forest plot's labels."""
ROW = 17
COLOURS = 6
"""Colours of the palette; with more models, shapes tell them apart."""
SHAPES = 3
MAX_ROWS = 60


@dataclass(frozen=True)
class Tick:
    """One mark of an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class ForestRow:
    """One interval."""

    y: float
    label: str
    low: float
    value: float
    high: float
    said: str
    """The numbers in words, for the tooltip."""
    plain: bool
    """True for `none` and for what does not rank."""
    heading: bool = False
    """True for a model's name, which has no interval."""


@dataclass(frozen=True)
class Forest:
    """A forest plot."""

    height: float
    ticks: list[Tick]
    rows: list[ForestRow]
    title: str


@dataclass(frozen=True)
class Dot:
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


@dataclass(frozen=True)
class Scatter:
    """Failures against utility."""

    height: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    x_title: str
    y_title: str
    better: str
    """Where the good values of y are: `below` or `above`."""
    dots: list[Dot]
    models: list[tuple[int, int, str]]
    """(colour, shape, model) of the legend."""


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that span [low, high]."""
    span = max(high - low, 1e-9)
    raw = span / count
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw - 1e-12)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def forest(section: Section) -> Forest | None:
    """The section's intervals by model; None when there is nothing to compare."""
    lines = [line for line in section.lines if line.measure.value is not None]
    if len(lines) < 2 or len(lines) > MAX_ROWS:
        return None
    rate = section.metric in RATES
    ends = [
        end
        for line in lines
        for end in (line.measure.low, line.measure.value, line.measure.high)
        if end is not None
    ]
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if rate else nice_ticks(min(ends), max(ends))
    low, high = ticks[0], ticks[-1]

    def x(value: float | None) -> float:
        share = ((value or 0.0) - low) / (high - low)
        return round(LABEL + (WIDTH - LABEL - 14) * min(1.0, max(0.0, share)), 1)

    rows: list[ForestRow] = []
    y, model = 0.0, None
    for line in lines:
        heading = f"{line.cell.model}, {line.setting}" if line.setting else line.cell.model
        if heading != model:
            model = heading
            y += ROW
            rows.append(ForestRow(y, shorten(heading, 50), 0, 0, 0, "", False, heading=True))
        y += ROW
        measure = line.measure
        said = f"{line.cell.defense}: {describe(measure, section)}"
        plain = line.cell.defense_name == "none" or line.rank is None
        label = shorten(brief(line.cell.defense), 27)
        low_end, high_end = (measure.value if end is None else end for end in (measure.low, measure.high))
        rows.append(ForestRow(y, label, x(low_end), x(measure.value), x(high_end), said, plain))
    marks = [Tick(x(tick), f"{100 * tick:g}" if rate else f"{tick:g}") for tick in ticks]
    unit = ", %" if rate else ""
    return Forest(y + 24, marks, rows, f"{METRIC_NAMES[section.metric]}{unit}, with 95 % intervals")


def describe(measure: Measure, section: Section) -> str:
    """A value with its interval, in words."""
    unit = " %" if section.metric in RATES else ""
    if measure.low is None:
        return f"{show(measure.value, section.metric)}{unit}"
    value, low, high = (show(end, section.metric) for end in (measure.value, measure.low, measure.high))
    return f"{value}{unit} ({low} to {high})"


def scatter(section: Section) -> Scatter | None:
    """Failures against the first utility score beside them; None when fewer than two points have both."""
    column = next((n for n, beside in enumerate(section.beside) if beside.metric == "score"), None)
    if column is None:
        return None
    points = []
    for line in section.lines:
        utility = line.beside[column]
        value = line.measure.value
        if utility is not None and utility.whole and utility.value is not None and value is not None:
            points.append((utility.value, value, line.cell.model, line.cell.defense))
    if not 2 <= len(points) <= MAX_ROWS:
        return None
    xs = nice_ticks(min(point[0] for point in points), max(point[0] for point in points))
    rate = section.metric in RATES
    ys = [0.0, 0.25, 0.5, 0.75, 1.0] if rate else nice_ticks(*_range([point[1] for point in points]))
    height, left, bottom, top = 250, 40, 40, 12
    models = sorted({point[2] for point in points})

    def x(value: float) -> float:
        return round(left + (WIDTH - left - 20) * (value - xs[0]) / (xs[-1] - xs[0]), 1)

    def y(value: float) -> float:
        return round(height - bottom - (height - bottom - top) * (value - ys[0]) / (ys[-1] - ys[0]), 1)

    dots = []
    taken = [(x(across) - 4, x(across) + 4, y(up) + 3.5) for across, up, _, _ in points]
    for across, up, model, defense in sorted(points):
        number = models.index(model)
        label = shorten(brief(defense), 27)
        anchor = "end" if x(across) > WIDTH * 0.7 else "start"
        label_x = x(across) + (-7 if anchor == "end" else 7)
        label_y = _free(
            label_x, y(up) + 3.5, 5.2 * len(label) * (-1 if anchor == "end" else 1), taken, height - bottom
        )
        said = f"{model}, {defense}: {show(up, section.metric)}, {section.beside[column].title} {across:g}"
        dots.append(
            Dot(
                x(across),
                y(up),
                number % COLOURS,
                number % SHAPES,
                label,
                round(label_x, 1),
                label_y,
                anchor,
                said,
            )
        )
    return Scatter(
        height=height,
        x_ticks=[Tick(x(tick), f"{tick:g}") for tick in xs],
        y_ticks=[Tick(y(tick), f"{100 * tick:g}" if rate else f"{tick:g}") for tick in ys],
        x_title=section.beside[column].title.replace("score", "utility", 1),
        y_title=METRIC_NAMES[section.metric] + (", %" if rate else ""),
        better="below" if lower_is_better(section.metric) else "above",
        dots=dots,
        models=[(number % COLOURS, number % SHAPES, model) for number, model in enumerate(models)],
    )


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _free(x: float, y: float, width: float, taken: list[tuple[float, float, float]], floor: float) -> float:
    """A height near y at which a label does not lie on another one."""
    left, right = min(x, x + width), max(x, x + width)
    for step in (0, -9, 9, -18, 18, -27, 27):
        at = y + step
        clear = all(abs(at - other) >= 9 or right < a or left > b for a, b, other in taken)
        if clear and 8 < at < floor:
            break
    else:
        at = y
    taken.append((left, right, at))
    return round(at, 1)


def brief(label: str) -> str:
    """A defense's label for a plot: values without their names, switches by name."""
    name, bracket, settings = label.partition(" (")
    settings, closed, rest = settings.partition(")")
    if not bracket or not closed:
        return label
    words = []
    for setting in settings.split(", "):
        key, _, value = setting.partition("=")
        words.append({"true": key, "false": f"not {key}"}.get(value, value))
    return f"{name} {' '.join(words)}{rest}"


def shorten(text: str, size: int) -> str:
    """A text cut to a size, with an ellipsis."""
    return text if len(text) <= size else text[: size - 1] + "…"
