"""Random directions: cells that differ in the seed of their direction are draws of one control."""

from __future__ import annotations

from pydantic import JsonValue

from shiftdc_eval.board.index import IndexCell

DRAW = "random_seed"
"""The setting that draws a random direction; null where none is drawn."""


def is_drawn(cell: IndexCell) -> bool:
    """Whether the cell's direction was drawn."""
    return cell.settings.get(DRAW) is not None


def draw_of(cell: IndexCell) -> int:
    """The seed of a drawn direction; -1 where none is drawn, or it is no number."""
    seed = cell.settings.get(DRAW)
    return seed if isinstance(seed, int) else -1


def settings_but_draw(cell: IndexCell) -> dict[str, JsonValue]:
    """The settings, without the seed of a direction that was drawn."""
    return {name: value for name, value in cell.settings.items() if name != DRAW or not is_drawn(cell)}
