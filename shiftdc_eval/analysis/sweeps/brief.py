"""A finished sweep as a small table for documents: a line a configuration, a column a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shiftdc_eval.analysis.sweeps.table import named

TOGETHER = 5
"""Random directions from which one line holds all of them."""


def brief(table: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown, one for each model: metric in percent (MME: points of 400) with its 95 % interval.

    Args:
        table: rows of `sweep_table.rows`.
    """
    models = dict.fromkeys(row["model"] for row in table)
    parts = []
    for model in models:
        here = [row for row in table if row["model"] == model]
        parts += [f"`{model}`\n"] if len(models) > 1 else []
        parts.append(_of_model(here))
    return "\n".join(parts)


def _of_model(here: Sequence[Mapping[str, Any]]) -> str:
    tasks = list(dict.fromkeys(row["task"] for row in here))
    random = [row for row in here if row["defense"] == "random"]
    directions = max((sum(row["task"] == task for row in random) for task in tasks), default=0)
    together = directions >= TOGETHER
    lines = ["| | " + " | ".join(f"`{task}`" for task in tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    for name in dict.fromkeys(named(row, here) for row in here if not (together and row in random)):
        cells = [[row for row in here if row["task"] == task and named(row, here) == name] for task in tasks]
        lines.append(_line(name, ["; ".join(map(_number, rows)) for rows in cells]))
    if together:
        ends = [[row for row in random if row["task"] == task] for task in tasks]
        lines.append(_line(f"{directions} random directions", [_range(rows) for rows in ends]))
    counts = [row["n"] for row in here]
    judged = str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    return "\n".join([*lines, "", f"Items with a verdict: {judged}.", ""])


def _line(name: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in (name, *cells)) + " |"


def _number(row: Mapping[str, Any]) -> str:
    value, low, high = (
        "no number" if row[key] is None else f"{row['scale'] * row[key]:.0f}"
        for key in ("value", "low", "high")
    )
    return value if row["low"] is None or row["high"] is None else f"{value} [{low} to {high}]"


def _range(rows: Sequence[Mapping[str, Any]]) -> str:
    values = [row["scale"] * row["value"] for row in rows if row["value"] is not None]
    return f"{min(values):.0f} to {max(values):.0f}" if values else "no number"
