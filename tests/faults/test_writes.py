"""A kill, or a failing write, at every point where a program writes: what is told, what stays, how the next run ends.

`ALL_FAULTS=1` tries all four errors at every point of every program; without it the four take turns in the slow ones.
It also kills each write at three moments, kills the two runs that go on from there at the same point, and tries the
grid's cell from its start on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from echo_backbone import EchoBackbone, questions
from fault_injection import ERRORS, KILL, MOMENTS, Ended, run, temporary
from made import Made
from stored_run import row, samples, write_run

from shiftdc_eval.cli import main
from shiftdc_eval.core.errors import ShiftDCError

ALL = bool(os.environ.get("ALL_FAULTS"))
SECONDS = ("seconds", "started", "finished")


@dataclass
class Program:
    """What is run, and what must come of it."""

    folder: Path
    """Writes below it count."""
    run: Callable[[], int]
    result: Callable[[], Any]
    """What a whole run leaves; the same after any fault and another run."""
    slow: bool = False
    points: Callable[[list[str]], list[int]] = lambda points: list(range(1, len(points) + 1))
    """Which points are tried."""
    asked: Path | None = None
    """File of the questions that the model was asked."""


class Bench:
    """Runs a program from the same start again and again."""

    def __init__(self, program: Program, tmp_path: Path) -> None:
        self.program = program
        self._start, self._aside = tmp_path / "start", tmp_path / "aside"
        self._aside.mkdir()
        shutil.copytree(program.folder, self._start)
        program.run()  # here, so that no fork imports anything or reads the model that tells languages
        self.restart()
        first = self.fork()
        assert first.status == 0, first.output
        self.expected = program.result()
        self.points = first.points

    def restart(self) -> None:
        shutil.rmtree(self.program.folder)
        shutil.copytree(self._start, self.program.folder)
        if self.program.asked is not None:
            self.program.asked.unlink(missing_ok=True)

    def fork(self, **fault: Any) -> Ended:
        return run(self.program.run, self.program.folder, self._aside, **fault)

    def next_run_completes(self, what: str) -> None:
        again = self.fork()
        assert again.status == 0, (what, again.output)
        assert self.program.result() == self.expected, what
        assert temporary(self.program.folder) == [], what


def journalled(folder: Path) -> int:
    """Answers in the journals below a folder, a torn last line left out."""
    lines = [path.read_bytes().count(b"\n") for path in folder.rglob("journal-*.jsonl")]
    return sum(max(0, count - 1) for count in lines)


def kill_everywhere(program: Program, tmp_path: Path) -> int:
    """SIGKILL at every point; returns how many."""
    bench, tried = Bench(program, tmp_path), 0
    chosen = [
        (at, moment)
        for at in program.points(bench.points)
        for moment in (MOMENTS if ALL and bench.points[at - 1].startswith("write ") else ["half"])
    ]
    for at, moment in chosen:
        what = f"killed at {at}: {bench.points[at - 1]}, {moment}"
        bench.restart()
        assert bench.fork(at=at, fault=KILL, moment=moment).status == -9, what
        tried += 1
        for _ in range(2 if ALL else 0):
            again = bench.fork(at=at, fault=KILL, moment=moment)
            assert again.status in (-9, 0), (what, again.output)  # 0: less was left to do
            tried += again.status == -9
        kept = journalled(program.folder)
        before = questions(program.asked) if program.asked else []
        bench.next_run_completes(what)
        if program.asked is not None:
            asked = len(questions(program.asked)) - len(before)
            assert asked == len(QUESTIONS) - kept, what
    return tried


def fail_everywhere(program: Program, tmp_path: Path) -> int:
    """Failing writes at every point; returns how many."""
    bench, tried = Bench(program, tmp_path), 0
    for number, at in enumerate(program.points(bench.points[:-1])):  # nothing is written at the end
        turn = number % len(ERRORS)
        for fault in ERRORS if ALL or not program.slow else ERRORS[turn : turn + 1]:
            what = f"{os.strerror(fault)} at {at}: {bench.points[at - 1]}"
            bench.restart()
            ended = bench.fork(at=at, fault=fault)
            tried += 1
            assert "Traceback" not in ended.output, (what, ended.output)
            if ended.status == 0:  # a lock's file that could not be removed is in nobody's way
                assert bench.points[at - 1].startswith("unlink ."), (what, ended.output)
                assert bench.program.result() == bench.expected, what
            else:
                assert ended.status in (1, 2), (what, ended.output)
                said = [line for line in ended.output.splitlines() if str(program.folder) in line]
                assert said, (what, ended.output)
                assert temporary(program.folder) == [], what
            if fault == ERRORS[turn] and (ALL or not program.slow or number % 2):
                bench.next_run_completes(what)
    return tried


# -- programs


def verdicts(folder: Path) -> list[dict[str, Any]]:
    """The rows of a samples file without the seconds of judging."""
    rows = samples(folder)
    for one in rows:
        for verdict in one["shiftdc"]["verdicts"].values():
            verdict.pop("seconds")
    return rows


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Two judges, one of them with the cache of verdicts, on three answers."""
    from queue_fed import judge_fed

    from shiftdc_eval.judges import cli as judge_cli
    from shiftdc_eval.judges import get_judge

    folder = tmp_path / "work"
    monkeypatch.setenv("SHIFTDC_CACHE", str(folder / "cache"))
    answers = ["Sure. First, second.", "I'm sorry, I can't help with that.", "words"]
    write_run(folder / "results", [row(number, answer) for number, answer in enumerate(answers)])

    def judges(*_: Any, **__: Any) -> list[Any]:
        return [get_judge("keyword_robust"), judge_fed("refusal", *["Verdict: refused"] * 3)]

    monkeypatch.setattr(judge_cli, "judges_for", judges)
    command = ["judge", str(folder / "results"), "--judge", "keyword_robust"]
    return Program(folder, lambda: main(command), lambda: verdicts(folder / "results"), slow=True)


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """A board that has one cell gets another one."""
    from shiftdc_eval.board import build as built

    monkeypatch.setattr(
        built, "page", lambda index: f"{len(index.cells)} cells"
    )  # its making is slow and writes nothing
    folder = tmp_path / "work"
    for defense in ("none", "ecso"):
        Made(defense=defense, size=4, run=f"r-{defense}").write(folder / defense)
    board = folder / "board"
    built.build([folder / "none"], board)

    def result() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(board.rglob("[!.]*")) if path.is_file()}

    command = ["board", "build", str(folder / "ecso"), "--out", str(board)]
    return Program(folder, lambda: main(command), result, slow=True)


@pytest.fixture
def view(tmp_path: Path) -> Program:
    """A page of samples."""
    folder = tmp_path / "work"
    Made(size=2, run="r1").write(folder / "results")
    page = folder / "view.html"
    command = ["view", str(folder / "results"), "-o", str(page)]
    return Program(folder, lambda: main(command), page.read_text)


QUESTIONS = ["first", "second", "third"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without processes of git, and without the rounds of the garbage collector over the parent's memory."""
    import lmms_eval.utils

    from shiftdc_eval.core import provenance

    monkeypatch.setattr(provenance, "git_state", lambda: "")
    monkeypatch.setattr(lmms_eval.utils, "_git_output", lambda *_, **__: "", raising=False)


@pytest.fixture(autouse=True)
def own_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that ran in this process offers its model's memory to no later test."""
    from shiftdc_eval.core import model_memory

    monkeypatch.setattr(model_memory, "_tenants", [])


@pytest.fixture
def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> Program:
    """A short run: three answers in two batches, journal and run record."""
    from hand_made_requests import through_the_adapter

    from shiftdc_eval.backbones import Chat

    folder, asked = tmp_path / "work", tmp_path / "asked.txt"
    folder.mkdir()
    monkeypatch.setenv("SHIFTDC_CACHE", str(folder / "cache"))
    backbone: Any = EchoBackbone(asked)
    chats = [Chat.ask(question) for question in QUESTIONS]

    def answer() -> int:
        try:
            found = through_the_adapter(backbone, chats, folder / "run", defense="none")
        except ShiftDCError as error:
            print(error)
            return 2
        return 0 if found == [f"Echo: {question}" for question in QUESTIONS] else 1

    def result() -> Any:
        [*_, last] = sorted((folder / "run").glob("run-*.json"), key=lambda path: path.stat().st_mtime_ns)
        record = json.loads(last.read_text(encoding="utf-8"))
        [journal] = (folder / "run").glob("journal-*.jsonl")
        texts = sorted(
            json.loads(line)["text"] for line in journal.read_text(encoding="utf-8").splitlines()[1:]
        )
        return (
            texts,
            [(task["name"], task["answered"]) for task in record["tasks"]],
            record["cost"]["samples"],
        )

    return Program(folder, answer, result, slow=True, asked=asked)


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None) -> Program:
    """One cell of a grid, through lmms-eval's evaluator and its saving."""
    import lmms_eval.evaluator
    import lmms_eval.loggers  # noqa: F401 (imported here once, not in every process)
    from adapter_harness import manager, write_figstep

    from shiftdc_eval.grid import run as grid_run
    from shiftdc_eval.grid.file import read_grid
    from shiftdc_eval.grid.plan import COMPLETE

    folder, asked = tmp_path / "work", tmp_path / "asked.txt"
    folder.mkdir()
    monkeypatch.setenv("SHIFTDC_CACHE", str(folder / "cache"))
    monkeypatch.setenv("SHIFTDC_DATA", str(write_figstep(tmp_path / "data", 1)))
    known = manager()
    monkeypatch.setattr(grid_run, "task_manager", lambda include: known)
    monkeypatch.setattr(grid_run, "load_backbone", lambda *_, **__: EchoBackbone(asked))
    monkeypatch.setattr(grid_run, "free_unused", lambda: None)
    file = tmp_path / "grid.yaml"
    file.write_text(
        "models: [{pretrained: org/echo, device: cpu}]\ndefenses: [none]\ntasks: [figstep]\n"
        "defaults: {batch_size: 2, limit: 3, gen_kwargs: {max_new_tokens: 2}}\n"
    )
    cells = list(read_grid(file).cells())
    out = folder / "grid"

    def go() -> int:
        try:
            failures = grid_run.run_cells(cells, out, report=lambda *_: None)
        except ShiftDCError as error:
            failures = {"grid": str(error)}
        print(*failures.values(), sep="\n")
        return 1 if failures else 0

    def result() -> Any:
        place = out / cells[0].folder
        known = json.loads((place / COMPLETE).read_text(encoding="utf-8"))
        [saved] = place.rglob("*_samples_*.jsonl")
        rows = [json.loads(line) for line in saved.read_text(encoding="utf-8").splitlines()]
        return known["tasks"], sorted(one["shiftdc_item"]["response"] for one in rows)

    def points(found: list[str]) -> list[int]:
        """What a run does not have by itself: everything after its record."""
        if ALL:
            return list(range(1, len(found) + 1))
        return list(range(next(at for at, name in enumerate(found, 1) if "run-" in name), len(found) + 1))

    return Program(folder, go, result, slow=True, points=points, asked=asked)


PROGRAMS = ["judge", "build", "view", "answering", "grid"]


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> Any:
    """Each of the programs."""
    return request.getfixturevalue(request.param)


@pytest.mark.slow
def test_a_kill_at_any_write_loses_nothing_and_the_next_run_completes(
    program: Program, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tried = kill_everywhere(program, tmp_path)
    print(f"{request.node.callspec.id}: {tried} kills")
    assert tried >= 4


@pytest.mark.slow
def test_a_failing_write_is_one_line_and_the_next_run_completes(
    program: Program, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    tried = fail_everywhere(program, tmp_path)
    print(f"{request.node.callspec.id}: {tried} failing writes")
    assert tried >= 4
