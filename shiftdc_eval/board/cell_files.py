"""The cell files of a board."""

from __future__ import annotations

from pathlib import Path

from shiftdc_eval.board.cell import Cell
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.json_files import parse, read_text


def cell_files(board: Path) -> list[Path]:
    """The cell files of a board, sorted by their path below `cells/`."""
    root = board / "cells"
    return sorted(root.rglob("*.json"), key=lambda path: path.relative_to(root).as_posix())


def read_cells(board: Path) -> list[Cell]:
    """All cells of a board, in the order of their paths; raises as `read_placed`."""
    return [read_placed(path, board) for path in cell_files(board)]


def read_placed(path: Path, board: Path) -> Cell:
    """A cell whose path is the one that its content gives.

    Raises:
        RecordError: it is invalid (names the field) or has another path.
    """
    cell = parse(read_text(path), Cell, path)
    here = path.relative_to(board / "cells").as_posix()
    if here != cell.path:
        raise RecordError(
            f"{path}: path: the content belongs at cells/{cell.path}; "
            "the path is derived from task, model, defense, generation, dtype, attention, engine and seed"
        )
    return cell
