"""Labels of defenses: the name, and the fewest settings that distinguish a defense from its siblings on the board."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

from pydantic import JsonValue

from shiftdc_eval.board.cell import Cell
from shiftdc_eval.board.index import IndexCell
from shiftdc_eval.core.hashing import content_hash

Settings = Mapping[str, str]
"""Settings as JSON texts."""
FEW = 3
"""Settings in a label at most, unless only all of them distinguish it."""
FITTED = {"fitted", "gate_fitted"}
"""What was found on the contrast set, in many numbers: no label."""
DRAW = "random_seed"
"""The setting that draws a random direction: cells that differ only in it are draws of one control. Null where none
is drawn."""


def defense_labels(cells: Sequence[Cell]) -> dict[str, str]:
    """Label of each cell's defense by the cell's path, unique among its siblings on the same model.

    A label names only part of the settings; the cell holds all of them.
    """
    siblings: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        siblings[cell.model.id, cell.model.revision, base_label(cell)].append(cell)
    labels: dict[str, str] = {}
    for family in siblings.values():
        names = {name for cell in family for name in cell.defense.settings} - FITTED
        settings = {
            cell.path: {name: json.dumps(cell.defense.settings.get(name)) for name in names}
            for cell in family
        }
        known = [dict(one) for one in {tuple(sorted(one.items())) for one in settings.values()}]
        for cell in family:
            given = cell.defense.settings
            parts = [
                f"{name}={value if isinstance(value := given[name], str) else json.dumps(value)}"
                for name in distinguishing(settings[cell.path], known)
                if name in given
            ]
            name = base_label(cell)
            labels[cell.path] = f"{name} ({', '.join(parts)})" if parts else name
    return _unique(cells, labels)


def base_label(cell: Cell) -> str:
    """The defense's name, and the gate in front of it where there is one."""
    gate = cell.defense.settings.get("gate")
    return f"{cell.defense.name}, gated by {gate}" if isinstance(gate, str) else cell.defense.name


def distinguishing(own: Settings, known: Sequence[Settings]) -> Sequence[str]:
    """The fewest settings whose values no other configuration has; of equally few those with the most values."""
    values = {name: len({one[name] for one in known}) for name in own}
    varying = sorted((name for name in own if values[name] > 1), key=lambda name: (-values[name], name))
    for size in range(min(FEW, len(varying)) + 1):
        for chosen in combinations(varying, size):
            if sum(all(one[name] == own[name] for name in chosen) for one in known) == 1:
                return sorted(chosen)
    return sorted(varying)


def _unique(cells: Sequence[Cell], labels: dict[str, str]) -> dict[str, str]:
    """Labels, with the hash in the cell's file name where two rows would have the same label."""
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


def is_drawn(cell: IndexCell) -> bool:
    """True where the safety direction was drawn at random."""
    return cell.settings.get(DRAW) is not None


def draw_of(cell: IndexCell) -> int:
    """The seed of a random direction; -1 without one, or when it is not a number."""
    seed = cell.settings.get(DRAW)
    return seed if isinstance(seed, int) else -1


def settings_but_draw(cell: IndexCell) -> dict[str, JsonValue]:
    """The settings without the seed of a random direction."""
    return {name: value for name, value in cell.settings.items() if name != DRAW or not is_drawn(cell)}
