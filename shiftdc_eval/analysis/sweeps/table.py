"""One table of a finished sweep: every cell against `none` on the same items."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shiftdc_eval.board.cell import Cell
from shiftdc_eval.board.compare import paired
from shiftdc_eval.board.defense_labels import defense_labels
from shiftdc_eval.board.index import lower_is_better
from shiftdc_eval.board.ingest.join import join
from shiftdc_eval.board.metrics import Column, columns_of
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.hashing import content_hash

DIGITS = 5
REFERENCE = "none"
TOGETHER = 5
"""Random directions from which one line of the small table holds all of them."""


def rows(folders: Sequence[Path], judge: str | None = None) -> list[dict[str, Any]]:
    """One row a cell: its number with its interval, and the paired difference to `none` with its interval.

    Args:
        folders: where the cells lie.
        judge: name of the judge whose verdicts count; the first of `none` when None.

    Raises:
        RecordError: nothing of ours there, no cell of `none`, no such judge, or cells that differ in more than
            their defense.
    """
    cells = join(folders)
    results = folders[0] if len(folders) == 1 else folders[0].parents[2]
    _of_one_kind(cells, results)
    labels = defense_labels(cells)
    references = {_place(cell): _reference(cell, judge) for cell in cells if cell.defense.name == REFERENCE}
    found = []
    for cell in cells:
        reference = references.get(_place(cell))
        if reference is None:
            raise RecordError(
                f"{results}: no cell of defense {REFERENCE} for {cell.task.name} on {cell.model.id}; a sweep needs it "
                "to compare with"
            )
        found.append(_row(cell, labels[cell.path], _like(cell, reference), reference))
    return sorted(found, key=lambda row: (row["model"], row["task"], *_rank(row)))


def _of_one_kind(cells: Sequence[Cell], results: Path) -> None:
    """Differences to `none` mean something only where nothing but the defense differs."""
    known: dict[tuple[str, str], str] = {}
    for cell in cells:
        if known.setdefault((cell.model.id, cell.task.name), _place(cell)) != _place(cell):
            raise RecordError(
                f"{results}: {cell.task.name} on {cell.model.id} has cells with several seeds, generation "
                "settings, weights or dtypes; a sweep's cells differ in their defense alone: give each its own folder "
                "(`board build` pools seeds)"
            )


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


def _place(cell: Cell) -> str:
    """Equal for cells that differ in nothing but their defense."""
    key = cell.key()
    del key["defense"]
    return content_hash(key)


def _reference(cell: Cell, judge: str | None) -> Column:
    columns = columns_of(cell)
    for column in columns:
        if judge is None or column.judge.name == judge:
            return column
    names = ", ".join(column.judge.name for column in columns) or "none"
    raise RecordError(f"{cell.path}: no verdicts of judge {judge or 'at all'}; there are {names}")


def _like(cell: Cell, reference: Column) -> Column:
    """The column of the judge that judged the reference, with the same rubric."""
    columns = columns_of(cell)
    for column in columns:
        if column.judge.key == reference.judge.key:
            return column
    names = ", ".join(column.judge.key for column in columns) or "none"
    raise RecordError(
        f"{cell.path}: no verdicts of judge {reference.judge.key}, which judged {REFERENCE}; there are {names}; "
        "judge the cells alike, or name a judge that all have with --judge"
    )


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
    among them: it cannot be smaller than 1 / (directions + 1). Random directions count for the ShiftDC whose
    other settings they share, and only where there is a number.
    """
    found = []
    for own in table:
        effect = own["difference"]["value"]
        random = [row["difference"]["value"] for row in table if _is_random_of(row, own)]
        if own["defense"] != "shiftdc" or own["ablation"] or effect is None or not random:
            continue
        sign = -1 if own["lower_is_better"] else 1
        as_good = sum(sign * other >= sign * effect for other in random)
        found.append(
            {
                "model": own["model"],
                "task": own["task"],
                "label": named(own, table),
                "metric": own["metric"],
                "scale": own["scale"],
                "effect": effect,
                "directions": len(random),
                "random": sorted(random),
                "random_mean": _short(float(np.mean(random))),
                "as_good": as_good,
                "p": _short((as_good + 1) / (len(random) + 1)),
            }
        )
    return found


def _is_random_of(row: Mapping[str, Any], own: Mapping[str, Any]) -> bool:
    return (
        row["defense"] == "random"
        and row["difference"]["value"] is not None
        and all(row[key] == own[key] for key in ("model", "task"))
        and _but_seed(row) == _but_seed(own)
    )


def _but_seed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row["settings"].items() if name != "random_seed"}


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
            f"{one['task']}: {one['label']} moves {one['metric']} by {points[0]} points, {one['directions']} random "
            f"directions by {points[1]} on average ({ends[0]} to {ends[1]}); {one['as_good']} of them do at least as "
            f"well, p = {one['p']:.2g}."
        )
    return "\n".join(lines) + "\n"


def brief(table: Sequence[Mapping[str, Any]]) -> str:
    """A small table for documents, one for each model: a line a configuration, a column a task.

    Numbers are percent (MME: points of 400) with their 95 % intervals.
    """
    models = dict.fromkeys(row["model"] for row in table)
    parts = []
    for model in models:
        parts += [f"`{model}`\n"] if len(models) > 1 else []
        parts.append(_of_model([row for row in table if row["model"] == model]))
    return "\n".join(parts)


def _of_model(here: Sequence[Mapping[str, Any]]) -> str:
    tasks = list(dict.fromkeys(row["task"] for row in here))
    random = [row for row in here if row["defense"] == "random"]
    directions = max((sum(row["task"] == task for row in random) for task in tasks), default=0)
    together = directions >= TOGETHER
    lines = []
    for name in dict.fromkeys(named(row, here) for row in here if not (together and row in random)):
        cells = [[row for row in here if row["task"] == task and named(row, here) == name] for task in tasks]
        lines.append([name, *("; ".join(_interval(row, row["scale"], 0) for row in rows) for rows in cells)])
    if together:
        ends = [_range([row for row in random if row["task"] == task]) for task in tasks]
        lines.append([f"{directions} random directions", *ends])
    counts = sorted({row["n"] for row in here})
    head = ["| | " + " | ".join(f"`{task}`" for task in tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    texts = ["| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines]
    judged = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return "\n".join([*head, *texts, "", f"Items with a verdict: {judged}.", ""])


def _range(rows: Sequence[Mapping[str, Any]]) -> str:
    values = [row["scale"] * row["value"] for row in rows if row["value"] is not None]
    return f"{min(values):.0f} to {max(values):.0f}" if values else "no number"


def _interval(one: Mapping[str, Any], scale: int, digits: int = 1) -> str:
    value, low, high = (
        None if one[key] is None else f"{scale * one[key]:.{digits}f}" for key in ("value", "low", "high")
    )
    if value is None:
        return "no number"
    return value if low is None or high is None else f"{value} [{low} to {high}]"
