"""One plot of a finished sweep: an interval a configuration, or a heat map where layer ranges were swept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shiftdc_eval.analysis.sweeps.table import REFERENCE, named

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
            if ranges:
                _heat_map(axes, ranges, here[0])
                undefended = [row for row in here if row["defense"] == REFERENCE and row["value"] is not None]
                said += "".join(f"; {REFERENCE}: {row['scale'] * row['value']:.0f}" for row in undefended)
            else:
                _forest(axes, here)
            axes.set_title(f"{place[1]}: {here[0]['metric']}, {unit} ({said})", fontsize=8)
        save(figure, path)


LEAST = 6
"""Layer ranges that make a heat map; fewer are read more easily one below the other."""


def _ranges(here: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int], float]:
    """Layer range -> value where every configuration but `none` is a range of its own, else nothing."""
    found: dict[tuple[int, int], float] = {}
    swept = [row for row in here if row["defense"] != REFERENCE]
    for row in swept:
        layers = row["settings"].get("layers")
        if row["defense"] == "shiftdc" and isinstance(layers, str) and row["value"] is not None:
            first, last = (layers.split("-") * 2)[:2]
            found[int(first), int(last)] = row["value"]
    return found if len(found) == len(swept) >= LEAST else {}


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
