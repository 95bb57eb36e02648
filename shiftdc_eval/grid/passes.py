"""Forward passes of the cells of a grid, counted before anything is run."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from shiftdc_eval.defenses.arguments import chosen, class_of
from shiftdc_eval.defenses.base import Defense
from shiftdc_eval.defenses.passes import UNDEFENDED, Kind, Pass
from shiftdc_eval.grid.file import Cell

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Size:
    """Items of a cell."""

    shown: int
    """With an image."""
    plain: int
    """Without."""


@dataclass(frozen=True)
class Counted:
    """A prompt through the model for several items of a cell."""

    kind: Kind
    count: int
    """Items."""
    shared: Hashable
    """Cells that name the same thing share the pass; None: it is this cell's alone."""


def defense_of(cell: Cell) -> Defense:
    """A cell's defense; contrast and direction are the adapter's."""
    return chosen(cell.defense.name, own_settings(cell), what="grid:")


def own_settings(cell: Cell) -> dict[str, Any]:
    """Settings of a cell's defense that are fields of it."""
    fields = class_of(cell.defense.name, cell.defense.settings).model_fields
    return {name: value for name, value in cell.defense.settings.items() if name in fields}


def passes(cell: Cell, size: Size) -> Iterator[Counted]:
    """Forward passes of a cell, without the fit of its direction."""
    here = (cell.model, cell.task, cell.settings.system_prompt, cell.settings.limit)
    defense = defense_of(cell)
    if not defense.asks_model:
        return
    answer = UNDEFENDED if cell.defense.name == "none" else Pass("answers")
    for one in (*defense.extra_passes(), answer):
        decoded = repr(cell.settings.gen_kwargs) if one.kind == "answers" else ""
        shared = None if one.shared is None else (here, one.shared, decoded)
        yield Counted(one.kind, size.shown + (size.plain if one.without_image else 0), shared)
    if size.plain:
        yield Counted("answers", size.plain, None)
