"""`board check`: every cell valid and at its path, every generated file up to date."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from shiftdc_eval.board.build import GENERATED, generate
from shiftdc_eval.board.cell_files import cell_files, read_placed
from shiftdc_eval.board.judge_calibrations import FOLDER, calibration_files, read_calibration
from shiftdc_eval.board.reported import read_paper, reported_files
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.files import LEFTOVER, remove_leftovers
from shiftdc_eval.core.json_files import first_difference, read_text, record_text

KNOWN = {"cells", "reported", FOLDER, "README.md", *GENERATED}
Read = TypeVar("Read", bound=BaseModel)


def check(board: Path) -> list[str]:
    """The problems of a board, one line each; empty for a valid board.

    Raises:
        RecordError: there is no such board.
    """
    if not board.is_dir():
        raise RecordError(f"{board}: no such board; make one with `shiftdc-eval board build`")
    remove_leftovers(board, below=True)
    names = {path.name for path in board.iterdir() if not path.name.startswith(".")}
    problems = [f"{board / name}: not part of a board" for name in sorted(names - KNOWN)]
    foreign = [
        path
        for path in (board / "cells").rglob("*")
        if path.is_file() and path.suffix != ".json" and not LEFTOVER.fullmatch(path.name)
    ]
    problems += [f"{path}: not a cell (cells are .json files)" for path in sorted(foreign)]

    def valid(paths: Sequence[Path], read: Callable[[Path], Read]) -> list[Read]:
        records = []
        for path in paths:
            try:
                record = read(path)
                records.append(record)
                problems.extend(
                    _differs(path, record_text(record), "not in canonical form", "`board build` writes it so")
                )
            except RecordError as error:
                problems.append(str(error))
        return records

    cells = valid(cell_files(board), lambda path: read_placed(path, board))
    reported = valid(reported_files(board), read_paper)
    calibrations = valid(calibration_files(board), read_calibration)
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
