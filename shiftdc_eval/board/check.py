"""`board check`: every cell valid and at its path, every generated file up to date."""

from __future__ import annotations

from pathlib import Path

from shiftdc_eval.board.build import GENERATED, generate
from shiftdc_eval.board.cell_files import CELLS, R, Shelf, remove_leftovers
from shiftdc_eval.board.judge_calibrations import CALIBRATIONS
from shiftdc_eval.board.reported import REPORTED
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.json_files import first_difference, read_text, record_text

KNOWN = {CELLS.folder, REPORTED.folder, CALIBRATIONS.folder, "README.md", *GENERATED}


def check(board: Path) -> list[str]:
    """The problems of a board, one line each; empty for a valid board.

    Raises:
        RecordError: there is no such board.
    """
    if not board.is_dir():
        raise RecordError(f"{board}: no such board; make one with `shiftdc-eval board build`")
    remove_leftovers(board)
    names = {path.name for path in board.iterdir() if not path.name.startswith(".")}
    problems = [f"{board / name}: not part of a board" for name in sorted(names - KNOWN)]
    foreign = [
        path
        for path in (board / "cells").rglob("*")
        if path.is_file() and path.suffix != ".json" and not path.name.startswith(".")
    ]
    problems += [f"{path}: not a cell (cells are .json files)" for path in sorted(foreign)]

    def valid(shelf: Shelf[R]) -> list[R]:
        records = []
        for path in shelf.paths(board):
            try:
                record = shelf.read(path, board)
                records.append(record)
                problems.extend(
                    _differs(path, record_text(record), "not in canonical form", "`board build` writes it so")
                )
            except RecordError as error:
                problems.append(str(error))
        return records

    cells, reported, calibrations = valid(CELLS), valid(REPORTED), valid(CALIBRATIONS)
    if problems:
        return problems  # generated from invalid files, the pages prove nothing
    rebuild = "run `shiftdc-eval board build`"
    for name, text in generate(cells, reported, calibrations).items():
        path = board / name
        if path.is_file():
            problems += _differs(path, text, "differs from the regenerated file", rebuild)
        else:
            problems.append(f"{path}: missing; {rebuild}")
    return problems


def _differs(path: Path, text: str, what: str, advice: str) -> list[str]:
    found = read_text(path)
    return [] if found == text else [f"{path}: {what}: {first_difference(text, found)}; {advice}"]
