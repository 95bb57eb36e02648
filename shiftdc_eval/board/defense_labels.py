"""What the board calls a defense: its name, and as few of its settings as tell it from its siblings."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

from shiftdc_eval.board.cell import Cell
from shiftdc_eval.core.hashing import content_hash

Settings = Mapping[str, str]
"""Settings as JSON texts."""
FEW = 3
"""Settings in a label, unless it takes all to tell."""


def defense_labels(cells: Sequence[Cell]) -> dict[str, str]:
    """Label of each cell's defense by the cell's path, told apart from its siblings on the same model.

    A label is no full account: all settings stand with the cell.
    """
    siblings: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        siblings[cell.model.id, cell.model.revision, cell.defense.name].append(cell)
    labels = {}
    for family in siblings.values():
        names = {name for cell in family for name in cell.defense.settings}
        settings = {
            cell.path: {name: json.dumps(cell.defense.settings.get(name)) for name in names}
            for cell in family
        }
        known = [dict(one) for one in {tuple(sorted(one.items())) for one in settings.values()}]
        for cell in family:
            telling = _telling(settings[cell.path], known)
            labels[cell.path] = _label(cell, telling)
    return _told_apart(cells, labels)


def _telling(own: Settings, known: Sequence[Settings]) -> Sequence[str]:
    """The fewest settings whose values no other configuration has; of equally few those with the most values."""
    values = {name: len({one[name] for one in known}) for name in own}
    varying = sorted((name for name in own if values[name] > 1), key=lambda name: (-values[name], name))
    for size in range(min(FEW, len(varying)) + 1):
        for chosen in combinations(varying, size):
            if sum(all(one[name] == own[name] for name in chosen) for one in known) == 1:
                return sorted(chosen)
    return sorted(varying)


def _told_apart(cells: Sequence[Cell], labels: dict[str, str]) -> dict[str, str]:
    """Labels, with the hash in the cell's file name where they would not tell two rows apart."""
    rows: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        key = cell.key()
        del key["defense"]
        rows[content_hash([key, labels[cell.path]])].append(cell)
    for found in rows.values():
        for cell in found if len(found) > 1 else ():
            digest = cell.path.removesuffix(f"-seed{cell.seed}.json").removesuffix(".json")[-8:]
            labels[cell.path] += f" #{digest}"
    return labels


def _label(cell: Cell, varying: Sequence[str]) -> str:
    settings = cell.defense.settings
    parts = [f"{name}={_short(settings[name])}" for name in varying if name in settings]
    return f"{cell.defense.name} ({', '.join(parts)})" if parts else cell.defense.name


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
