"""One table and one plot of a finished sweep: every cell against `none` on the same items."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shiftdc_eval.board.cell import Cell
from shiftdc_eval.board.compare import paired
from shiftdc_eval.board.index import lower_is_better
from shiftdc_eval.board.join import join
from shiftdc_eval.board.labels import defense_labels
from shiftdc_eval.board.measures import Column, columns_of
from shiftdc_eval.errors import RecordError

DIGITS = 5
REFERENCE = "none"


def rows(results: Path, judge: str | None = None) -> list[dict[str, Any]]:
    """One row a cell: its number with its interval, and the paired difference to `none` with its interval.

    Args:
        results: folder of the cells.
        judge: name of the judge whose verdicts count; each cell's first when None.

    Raises:
        RecordError: nothing of ours there, no cell of `none`, or no such judge.
    """
    cells = join([results])
    labels = defense_labels(cells)
    references = {_place(cell): _column(cell, judge) for cell in cells if cell.defense.name == REFERENCE}
    found = []
    for cell in cells:
        reference = references.get(_place(cell))
        if reference is None:
            raise RecordError(
                f"{results}: no cell of defense {REFERENCE} for {cell.task.name} on {cell.model.id}; a sweep needs it "
                "to compare with"
            )
        found.append(_row(cell, labels[cell.path], _column(cell, judge), reference))
    return sorted(found, key=lambda row: (row["model"], row["task"], *_rank(row)))


def _rank(row: Mapping[str, Any]) -> tuple[bool, bool, list[tuple[float, str]]]:
    """The references first, then ablations by name with numbers by their size."""
    pieces = re.findall(r"\d+(?:\.\d+)?|\D+", row["ablation"] or row["label"])
    named = [(float(one), "") if one[0].isdigit() else (-1.0, one) for one in pieces]
    return row["defense"] != REFERENCE, bool(row["ablation"]), named


def named(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """What a row is called: what an ablation changes, else its defense, with settings where siblings need them."""
    alike = [
        one
        for one in rows
        if not one["ablation"] and all(one[key] == row[key] for key in ("model", "task", "defense"))
    ]
    return str(row["ablation"] or (row["label"] if len(alike) > 1 else row["defense"]))


def _place(cell: Cell) -> tuple[str, str, int]:
    return cell.model.id, cell.task.name, cell.seed


def _column(cell: Cell, judge: str | None) -> Column:
    columns = columns_of(cell)
    for column in columns:
        if judge is None or column.judge.name == judge:
            return column
    names = ", ".join(column.judge.name for column in columns)
    raise RecordError(f"{cell.path}: no verdicts of judge {judge}; there are {names}")


def _row(cell: Cell, label: str, column: Column, reference: Column) -> dict[str, Any]:
    own = column.estimate(np.ones(len(column.values), np.bool_))
    apart = paired(column, reference)
    return {
        "model": cell.model.id,
        "task": cell.task.name,
        "metric": column.metric,
        "lower_is_better": lower_is_better(column.metric),
        "scale": 1 if column.is_mme else 100,
        "defense": cell.defense.name,
        "label": label,
        "ablation": cell.ablation.removeprefix("ablation: "),
        "settings": cell.defense.settings,
        "direction_sha256": cell.defense.direction_sha256,
        "n": own.n,
        **{name: _short(getattr(own, name)) for name in ("value", "low", "high")},
        "difference": {
            **{name: _short(getattr(apart, name)) for name in ("value", "low", "high", "p")},
            "n": apart.n,
        },
    }


def _short(number: float) -> float | None:
    return float(f"{number:.{DIGITS}g}") if np.isfinite(number) else None


def against_random(table: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where ShiftDC's effect lies among those of random directions of the same norm, by model and task.

    `p` is the share of random directions that move the number at least as far towards better, ShiftDC counted
    among them: it cannot be smaller than 1 / (directions + 1).
    """
    found = []
    for place in dict.fromkeys((row["model"], row["task"]) for row in table):
        here = [row for row in table if (row["model"], row["task"]) == place]
        own = [row for row in here if row["defense"] == "shiftdc" and not row["ablation"]]
        random = [row["difference"]["value"] for row in here if row["defense"] == "random"]
        if len(own) != 1 or not random:
            continue
        sign = -1 if own[0]["lower_is_better"] else 1
        effect = own[0]["difference"]["value"]
        as_good = sum(sign * other >= sign * effect for other in random)
        found.append(
            {
                "model": place[0],
                "task": place[1],
                "metric": own[0]["metric"],
                "scale": own[0]["scale"],
                "effect": effect,
                "directions": len(random),
                "random": sorted(random),
                "random_mean": _short(float(np.mean(random))),
                "as_good": as_good,
                "p": _short((as_good + 1) / (len(random) + 1)),
            }
        )
    return found


def markdown(summary: Mapping[str, Any]) -> str:
    """The table as text."""
    lines = [
        "| task | configuration | ranked | metric (%; MME: points of 400) [95 %] | difference to none [95 %] | p | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in summary["rows"]:
        apart = row["difference"]
        shown = "" if row["defense"] == REFERENCE else _interval(apart, row["scale"])
        p = "" if row["defense"] == REFERENCE or apart["p"] is None else f"{apart['p']:.2g}"
        cells = [
            row["task"],
            named(row, summary["rows"]),
            "ablation, never" if row["ablation"] else "on a board",
            f"{row['metric']} {_interval(row, row['scale'])}",
            shown,
            p,
            str(row["n"]),
        ]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    for one in summary["random"]:
        points = [f"{one['scale'] * number:+.1f}" for number in (one["effect"], one["random_mean"])]
        ends = [f"{one['scale'] * one['random'][at]:+.1f}" for at in (0, -1)]
        lines.append("")
        lines.append(
            f"{one['task']}: ShiftDC moves {one['metric']} by {points[0]} points, {one['directions']} random "
            f"directions by {points[1]} on average ({ends[0]} to {ends[1]}); {one['as_good']} of them do at least as "
            f"well, p = {one['p']:.2g}."
        )
    return "\n".join(lines) + "\n"


def _interval(one: Mapping[str, Any], scale: int) -> str:
    if one["value"] is None:
        return "no number"
    if one["low"] is None or one["high"] is None:
        return f"{scale * one['value']:.1f}"
    return f"{scale * one['value']:.1f} [{scale * one['low']:.1f} to {scale * one['high']:.1f}]"


COLUMNS = 2
"""Panels side by side."""


def plot(summary: Mapping[str, Any], path: Path) -> None:
    """Intervals of every configuration, one panel a task; a heat map where layer ranges were swept."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    from shiftdc_eval.analysis.plots import STYLE, save

    places = list(dict.fromkeys((row["model"], row["task"]) for row in summary["rows"]))
    columns = min(COLUMNS, len(places))
    lines = -(-len(places) // columns)
    tallest = max(sum((row["model"], row["task"]) == place for row in summary["rows"]) for place in places)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * columns, lines * (0.75 + 0.2 * tallest)), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False)
        for axes in panels.flat[len(places) :]:
            axes.set_visible(False)
        for axes, place in zip(panels.flat, places, strict=False):
            here = [row for row in summary["rows"] if (row["model"], row["task"]) == place]
            ranges = _ranges(here)
            unit = "%" if here[0]["scale"] == 100 else "points"
            better = "lower" if here[0]["lower_is_better"] else "higher"
            said = f"{better} is better"
            if len(ranges) >= 6:
                _heat_map(axes, ranges, here[0])
                undefended = [row for row in here if row["defense"] == REFERENCE and row["value"] is not None]
                said += "".join(f"; {REFERENCE}: {row['scale'] * row['value']:.0f}" for row in undefended)
            else:
                _forest(axes, here)
            axes.set_title(f"{place[1]}: {here[0]['metric']}, {unit} ({said})", fontsize=8)
        save(figure, path)


def _ranges(here: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], float]:
    """Layer range -> value, where nothing but the range differs."""
    found: dict[tuple[int, int], float] = {}
    for row in here:
        layers = row["settings"].get("layers")
        if row["defense"] == "shiftdc" and isinstance(layers, str) and row["value"] is not None:
            first, last = map(int, layers.split("-"))
            found[first, last] = row["value"]
    return found


def _heat_map(axes: Any, ranges: Mapping[tuple[int, int], float], row: Mapping[str, Any]) -> None:
    from matplotlib import colormaps

    firsts, lasts = (sorted({pair[at] for pair in ranges}) for at in (0, 1))
    grid = np.full((len(firsts), len(lasts)), np.nan)
    for (first, last), value in ranges.items():
        grid[firsts.index(first), lasts.index(last)] = row["scale"] * value
    top = max(100.0 if row["scale"] == 100 else 400.0, float(np.nanmax(grid)))
    colours = colormaps["cividis"]
    axes.pcolormesh(grid, cmap=colours, vmin=0, vmax=top, edgecolors="white", linewidth=1)
    for (at, to), value in np.ndenumerate(grid):
        if np.isfinite(value):
            ink = "black" if value > top / 2 else "white"
            axes.text(to + 0.5, at + 0.5, f"{value:.0f}", ha="center", va="center", color=ink)
    axes.grid(False)
    axes.invert_yaxis()
    axes.set(
        xticks=np.arange(len(lasts)) + 0.5,
        xticklabels=lasts,
        yticks=np.arange(len(firsts)) + 0.5,
        yticklabels=firsts,
        xlabel="last calibrated layer",
        ylabel="first calibrated layer",
    )


def _forest(axes: Any, here: Sequence[Mapping[str, Any]]) -> None:
    """One line a configuration; colour and mark say whether it is none, the method or an ablation."""
    for at, row in enumerate(here):
        if row["value"] is None:
            continue
        colour, mark = (
            ("#5a606b", "s")
            if row["defense"] == REFERENCE
            else ("#c14a00", "D")
            if row["ablation"]
            else ("#0b62a8", "o")
        )
        if row["low"] is not None and row["high"] is not None:
            ends = [row["scale"] * row["low"], row["scale"] * row["high"]]
            axes.plot(ends, [at, at], color=colour, linewidth=1.5)
        axes.plot(row["scale"] * row["value"], at, mark, color=colour, markersize=4)
    axes.set(yticks=range(len(here)), yticklabels=[named(row, here) for row in here])
    axes.tick_params(labelsize=7)
    axes.set_xlim(-4 if here[0]["scale"] == 100 else -16, 104 if here[0]["scale"] == 100 else 416)
    axes.invert_yaxis()
