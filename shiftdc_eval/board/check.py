"""`board check`: every cell valid and in its place, and everything generated exactly as it stands."""

from __future__ import annotations

from pathlib import Path

from shiftdc_eval.board.build import GENERATED, generate
from shiftdc_eval.board.cell import Cell
from shiftdc_eval.board.cell_files import cell_files, read_placed
from shiftdc_eval.board.judge_calibrations import FOLDER, calibration_files, read_calibration
from shiftdc_eval.board.reported import Reported, reported_files
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.json_files import first_difference, parse, read_text, record_text
from shiftdc_eval.core.records import Calibration

KNOWN = {"cells", "reported", FOLDER, "README.md", *GENERATED}


def check(board: Path) -> list[str]:
    """What is wrong with a board, one line a finding; empty when all is well.

    Raises:
        RecordError: there is no such board.
    """
    if not board.is_dir():
        raise RecordError(f"{board}: no such board; make one with `shiftdc-eval board build`")
    problems = [
        f"{board / name}: not part of a board" for name in sorted(_names(board) - KNOWN)
    ] + _foreign_files(board)
    cells: list[Cell] = []
    for path in cell_files(board):
        try:
            cell = read_placed(path, board)
            cells.append(cell)
            problems += _canonical(path, record_text(cell))
        except RecordError as error:
            problems.append(str(error))
    reported: list[Reported] = []
    for path in reported_files(board):
        try:
            paper = parse(read_text(path), Reported, path)
            reported.append(paper)
            problems += _canonical(path, record_text(paper))
        except RecordError as error:
            problems.append(str(error))
    calibrations: list[Calibration] = []
    for path in calibration_files(board):
        try:
            calibration = read_calibration(path)
            calibrations.append(calibration)
            problems += _canonical(path, record_text(calibration))
        except RecordError as error:
            problems.append(str(error))
    if problems:
        return problems  # what is generated from wrong files says nothing
    for name, text in generate(cells, reported, calibrations).items():
        problems += _same(board / name, text)
    return problems


def _names(board: Path) -> set[str]:
    return {path.name for path in board.iterdir() if not path.name.startswith(".")}


def _foreign_files(board: Path) -> list[str]:
    found = [path for path in (board / "cells").rglob("*") if path.is_file() and path.suffix != ".json"]
    return [f"{path}: not a cell (cells are .json files)" for path in sorted(found)]


def _canonical(path: Path, text: str) -> list[str]:
    found = read_text(path)
    if found == text:
        return []
    return [f"{path}: not in canonical form: {first_difference(text, found)}; `board build` writes it so"]


def _same(path: Path, text: str) -> list[str]:
    if not path.is_file():
        return [f"{path}: missing; run `shiftdc-eval board build`"]
    found = read_text(path)
    if found == text:
        return []
    return [
        f"{path}: differs from what the cells give: {first_difference(text, found)}; "
        "run `shiftdc-eval board build`"
    ]
