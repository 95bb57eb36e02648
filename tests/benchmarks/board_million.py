"""Time and memory from a million verdict rows to index and page.

    OMP_NUM_THREADS=2 python tests/benchmarks/board_million.py [--rows 1000000]

Writes made-up cells to a temporary folder (not timed), then times `shiftdc-eval board build` without results
in a fresh process: reading every cell, statistics, index.json, leaderboard.md and index.html.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from shiftdc_eval.board.cell import (
    CELL_VERSION,
    HASH_DIGITS,
    Cell,
    CellDefense,
    CellModel,
    CellTask,
    GroupColumn,
    JudgeColumn,
    RunSource,
    Samples,
)
from shiftdc_eval.core.json_files import record_text
from shiftdc_eval.core.records import Cost

DEFENSES = ("none", "shiftdc", "ecso", "ecso_caption", "adashield_s", "cmrm", "coca", "refusal_direction")
TASKS = (("attack", 1680, 3, ("harm", "refusal", "refusal")), ("benign", 500, 1, ("refusal", "refusal")))
UTILITY = ("utility", 2374, 2, ("score",))


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make_cell(random: np.random.Generator, model: str, defense: str, task: tuple) -> Cell:
    name, items, images, kinds = task
    size = items * images if name == "attack" else items
    rows = range(size)
    judges = []
    for number, kind in enumerate(kinds):
        verdicts: object
        if kind == "score":
            verdicts = [float(value) for value in random.integers(0, 2, size)]
        else:
            verdicts = "".join(random.choice(list("US" if kind == "harm" else "CR"), size))
        judges.append(
            JudgeColumn(
                name=f"judge{number}", fingerprint=sha(f"judge {number}"), kind=kind, verdicts=verdicts
            )
        )
    return Cell(
        cell_version=CELL_VERSION,
        task=CellTask(name=name, version="1", benign=name == "benign", items=size),
        model=CellModel(id=model, revision="0" * 40, note="made up"),
        defense=CellDefense(name=defense),
        dtype="bfloat16",
        seed=0,
        samples=Samples(
            item=[f"{name}/{row:05d}" for row in rows],
            question=[f"{name}/{row // images:05d}" for row in rows] if images > 1 else None,
            prompt=[sha(f"p{row}")[:HASH_DIGITS] for row in rows],
            image=[sha(f"i{row}")[:HASH_DIGITS] for row in rows],
            response=[sha(f"{model}{defense}{row}")[:HASH_DIGITS] for row in rows],
            groups={
                "scenario": GroupColumn(
                    values=[f"{n:02d}" for n in range(13)], codes=[row % 13 for row in rows]
                )
            },
        ),
        judges=judges,
        runs=[
            RunSource(
                id="made",
                recorded=True,
                hardware="none",
                command=f"lmms-eval --model shiftdc_vlm --model_args pretrained={model},defense={defense} --tasks {name}",
                cost=Cost(seconds=100, samples=size, reused=0, tokens_in=1, tokens_out=1),
            )
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="write the board here and keep it")
    arguments = parser.parse_args()
    wanted = arguments.rows
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        board, rows, cells, model = arguments.keep or Path(folder), 0, 0, 0
        while rows < wanted:
            for defense in DEFENSES:
                for task in (*TASKS, UTILITY):
                    cell = make_cell(random, f"org/model-{model}", defense, task)
                    path = board / "cells" / cell.path
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(record_text(cell))
                    rows += len(cell.samples) * len(cell.judges)
                    cells += 1
            model += 1
        size = sum(path.stat().st_size for path in board.rglob("*.json"))
        began = time.perf_counter()
        command = [sys.executable, "-m", "shiftdc_eval.cli", "board", "build", "--out", str(board)]
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        memory, processor = used.ru_maxrss / 1024, used.ru_utime + used.ru_stime
        page = (board / "index.html").stat().st_size
        print(f"{rows} verdict rows in {cells} cells of {model} models ({size / 1e6:.0f} MB)")
        print(
            f"{seconds:.1f} s ({processor:.1f} s of processor time), {memory:.0f} MB at most, index.html {page / 1e3:.0f} kB"
        )


if __name__ == "__main__":
    main()
