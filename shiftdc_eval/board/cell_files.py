"""The record files of a board: cells, and by the same rules papers and calibrations of judges."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from shiftdc_eval.board.cell import Cell
from shiftdc_eval.core import files
from shiftdc_eval.core.errors import RecordError, WriteError
from shiftdc_eval.core.json_files import parse, read_text
from shiftdc_eval.core.records import Record

OLD_LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}")
"""Names that older versions gave to temporary files."""
R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Shelf(Generic[R]):
    """The files of one kind."""

    folder: str
    """Their folder on a board."""
    model: type[R]
    place: Callable[[R], str] | None = None
    """Path below the folder that a record's content gives; None: any."""
    derived_from: str = ""
    """What that path is derived from, for the error."""

    def root(self, board: Path) -> Path:
        """The folder on a board; a checkout without symbolic links has a link's target as a file's text."""
        folder = board / self.folder
        return folder.parent / read_text(folder).strip() if folder.is_file() else folder

    def paths(self, board: Path) -> list[Path]:
        """The files of a board, sorted by their path below the folder."""
        root = self.root(board)
        return sorted(root.rglob("*.json"), key=lambda path: path.relative_to(root).as_posix())

    def read(self, path: Path, board: Path) -> R:
        """One file.

        Raises:
            RecordError: it is invalid (names the field) or has another path than its content gives.
        """
        found = parse(read_text(path), self.model, path)
        here = path.relative_to(self.root(board)).as_posix()
        if self.place is not None and here != self.place(found):
            raise RecordError(
                f"{path}: path: the content belongs at {self.folder}/{self.place(found)}; the path is derived from "
                f"{self.derived_from}"
            )
        return found

    def all_of(self, board: Path) -> list[R]:
        """All records of a board, in the order of their paths; raises as `read`."""
        return [self.read(path, board) for path in self.paths(board)]


CELLS = Shelf(
    "cells",
    Cell,
    lambda cell: cell.path,
    "task, model, defense, generation, dtype, attention, engine and seed",
)


def remove_leftovers(board: Path) -> None:
    """Remove what killed builds left; whatever cannot be removed stays and is ignored."""
    for folder in [board, *(path for path in board.rglob("*") if path.is_dir())]:
        files.remove_leftovers(folder)
    for path in board.rglob(".*"):
        if OLD_LEFTOVER.fullmatch(path.name):
            with suppress(WriteError):
                files.remove(path)
