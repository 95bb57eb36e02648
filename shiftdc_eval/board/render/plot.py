"""The plot of an overview: harm not refused against over-refusal; the template draws it as inline SVG.

An SVG by matplotlib takes ten times the bytes and names its version, so that another one changed the page. 360 units
wide, the text stays readable on a phone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from shiftdc_eval.board.index import Overview, OverviewRow, Pooled
from shiftdc_eval.board.render.format import interval, percent, shorten
from shiftdc_eval.board.render.overview import short_name

WIDTH, HEIGHT = 360, 262
LEFT, RIGHT, TOP, BOTTOM = 36, 350, 12, 222
ACROSS = (0, 1, 5, 10, 20, 40, 70, 100)
"""Ticks of over-refusal in percent; its axis is that of the square root, since most defenses differ at low values."""
DOWN = (0, 25, 50, 75, 100)
"""Ticks of harm not refused in percent."""
MAX_LABELS = 14
"""Dots of which all have a label where there is room; of more only the front and the corners."""


class Dot(NamedTuple):
    """One defense with both intervals."""

    x: float
    y: float
    left: float
    right: float
    low: float
    high: float
    form: str
    """`front`, `plain`, `corner` or `grey`: its style."""
    said: str
    """Tooltip."""
    label: str
    label_x: float
    label_y: float
    anchor: str


@dataclass(frozen=True)
class Plot:
    """The dots of a model, and the line of the front."""

    dots: list[Dot]
    front: str
    """Path of the Pareto front as a staircase that ends in the corner of refusing everything."""
    said: str
    """The plot in words."""


def across(over_refusal: float) -> float:
    """Position on the axis of over-refusal."""
    return round(LEFT + (RIGHT - LEFT) * math.sqrt(over_refusal), 1)


def down(harm: float) -> float:
    """Position on the axis of harm not refused."""
    return round(BOTTOM - (BOTTOM - TOP) * harm, 1)


def axes() -> tuple[list[tuple[float, int]], list[tuple[float, int]]]:
    """(position, percent) of the ticks of both axes."""
    return [(across(tick / 100), tick) for tick in ACROSS], [(down(tick / 100), tick) for tick in DOWN]


def plot(found: Overview) -> Plot | None:
    """The plot; None where fewer than two rows have both numbers."""
    rows = [row for row in found.rows if row.harm and row.over_refusal and row.kind != "ablation"]
    if len(rows) < 2:
        return None
    taken = [(across(x) - 5, across(x) + 5, down(y) + 3.5) for x, y in map(_point, rows)]
    all_labels = len(rows) <= MAX_LABELS
    dots = []
    if not any(row.defense.startswith("refuse_all") for row in rows):
        x, y, name = across(1), down(0), "refuse_all"
        height = _free(x - 7, y - 6, -5.0 * len(name), taken) or y - 6
        dots.append(Dot(x, y, x, x, y, y, "corner", f"{name}, by its definition", name, x - 7, height, "end"))
    for row in sorted(rows, key=lambda row: (not row.front, row.kind != "none", *_point(row))):
        label = short_name(row) if row.front or row.kind == "none" or all_labels else ""
        if row.over_refusal and row.harm:
            dots.append(_dot(row, row.over_refusal, row.harm, brief(label), taken))
    front = sorted({_point(row) for row in rows if row.front})
    path = ""
    if front:
        steps = "".join(f"H{across(x):g}V{down(y):g}" for x, y in [*front[1:], (1.0, 0.0)])
        path = f"M{across(front[0][0]):g} {down(front[0][1]):g}{steps}"
    named = "; ".join(_said(row) for row in rows if row.front or row.kind == "none")
    return Plot(
        dots,
        path,
        f"Harmful requests not refused against over-refusal of {len(rows)} defenses and controls, "
        f"lower left is better. {named}. The table below holds all numbers.",
    )


def _point(row: OverviewRow) -> tuple[float, float]:
    return (row.over_refusal.value, row.harm.value) if row.over_refusal and row.harm else (1.0, 1.0)


def _said(row: OverviewRow) -> str:
    x, y = row.over_refusal, row.harm
    if x is None or y is None:
        return row.defense
    return (
        f"{row.defense}: {percent(y.value)} % not refused ({interval(y.low, y.high)}), "
        f"over-refusal {percent(x.value)} % ({interval(x.low, x.high)})"
    )


def _dot(row: OverviewRow, x: Pooled, y: Pooled, label: str, taken: list[tuple[float, float, float]]) -> Dot:
    at, height = across(x.value), down(y.value)
    side, anchor = (-1, "end") if at > WIDTH * 0.66 else (1, "start")
    label_x = at + 7 * side
    label_y = _free(label_x, height + 3.5, 5.0 * len(label) * side, taken) if label else None
    form = "corner" if row.kind == "none" else "front" if row.front else "plain" if row.compared else "grey"
    ends = across(x.low), across(x.high), down(y.low), down(y.high)
    return Dot(
        at,
        height,
        *ends,
        form,
        _said(row),
        "" if label_y is None else label,
        round(label_x, 1),
        label_y or height,
        anchor,
    )


def _free(x: float, y: float, width: float, taken: list[tuple[float, float, float]]) -> float | None:
    """A height near y at which a label does not overlap another one or a dot; None where there is none."""
    left, right = min(x, x + width), max(x, x + width)

    def clear(at: float) -> bool:
        apart = all(abs(at - other) >= 9 or right < a or left > b for a, b, other in taken)
        return apart and 8 < at < BOTTOM

    at = next(filter(clear, (y + step for step in (0, -9, 9, -18, 18))), None)
    if at is None:
        return None
    taken.append((left, right, at))
    return round(at, 1)


def brief(label: str) -> str:
    """A defense's label for a plot: values without their names, switches by name."""
    name, bracket, settings = label.partition(" (")
    settings, closed, rest = settings.partition(")")
    if not bracket or not closed:
        return shorten(label, 27)
    pairs = [setting.partition("=") for setting in settings.split(", ")]
    words = [{"true": key, "false": f"not {key}"}.get(value, value) for key, _, value in pairs]
    return shorten(f"{name} {' '.join(words)}{rest}", 27)
