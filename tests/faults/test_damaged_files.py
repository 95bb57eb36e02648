"""Damaged state files: each is refused in one line that names it, or the work goes on as if it were not there."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from made import Made
from queue_fed import judge_fed
from stored_run import row, write_run

from shiftdc_eval.cli import main
from shiftdc_eval.core.errors import ShiftDCError
from shiftdc_eval.core.records import Calibration
from shiftdc_eval.judges import Item

Damage = Callable[[bytes], bytes | None]
"""New content of a file; None puts a folder in its place."""
NOW = b"\xff\xfe\x00"
HUGE = 10**400
WRONG: list[Any] = [None, "words", -1, 1.5, True, [], {}, [None], float("nan"), float("inf"), HUGE]


def flipped(seed: int) -> Damage:
    def flip(content: bytes) -> bytes:
        at = random.Random(seed).randrange(len(content))
        return content[:at] + bytes([content[at] ^ 1 << seed % 8]) + content[at + 1 :]

    return flip


WHOLE_FILE: dict[str, Damage] = {
    "empty": lambda content: b"",
    "cut in half": lambda content: content[: len(content) // 2],
    "last byte lost": lambda content: content[:-1],
    "cut at the end": lambda content: content[:-9],
    "not UTF-8": lambda content: content[:20] + NOW + content[20:],
    "zeros": lambda content: b"\0" * len(content),
    "a folder": lambda content: None,
    "a list": lambda content: b"[]\n",
    "a number": lambda content: b"7\n",
    "null": lambda content: b"null\n",
    "deep lists": lambda content: b"[" * 100_000 + b"\n",
    "deep objects": lambda content: b'{"a":' * 100_000 + b"\n",
    "a number without end": lambda content: b'{"a": ' + b"9" * 5000 + b"}\n",
    "words": lambda content: b"no JSON at all\n",
    "twice": lambda content: content + content,
    **{f"flipped bit {seed}": flipped(seed) for seed in range(8)},
}


def fields(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all values in a JSON document, of lists the first alone."""
    parts = (
        value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    )
    for key, part in parts:
        yield (*path, key)
        yield from fields(part, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy with one value replaced; `...` takes it out."""
    copy = json.loads(json.dumps(document))
    place = copy
    for key in path[:-1]:
        place = place[key]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copy


def each_field(line: bytes) -> Iterator[tuple[str, bytes]]:
    """A JSON line with every field missing once and of another type twice."""
    document, turn = json.loads(line), count()
    for path in fields(document):
        for value in (..., WRONG[next(turn) % len(WRONG)], WRONG[next(turn) % len(WRONG)]):
            said = f"{'.'.join(map(str, path))} = {'missing' if value is ... else str(value)[:12]}"
            yield said, json.dumps(changed(document, path, value)).encode()


@dataclass
class State:
    """A file, and the commands that read it."""

    path: Path
    read: list[Callable[[], int]]
    line: int | None = None
    """Which line of it holds the record whose fields are tried; None: the whole file."""
    place: Path | None = None
    """Folder that is put back before every damage."""


def calls(*command: object) -> Callable[[], int]:
    return lambda: main([str(word) for word in command])


@pytest.fixture
def samples(tmp_path: Path) -> State:
    path = Made(size=3, run="r1").write(tmp_path / "results")
    results = path.parent.parent
    shared = tmp_path / "out"
    read = [
        calls("board", "build", results, "--out", shared / "board"),
        calls("judge", results, "--judge", "keyword_gcg"),
        calls("view", results, "-o", shared / "view.html"),
    ]
    return State(path, read, 1, results)


@pytest.fixture
def results_file(tmp_path: Path) -> State:
    results = tmp_path / "results"
    path = Made(size=2, run=None).write(results)
    [found] = path.parent.glob("*_results.json")
    return State(
        found, [calls("board", "build", results, "--out", tmp_path / "out" / "board")], place=results
    )


@pytest.fixture
def run_record(tmp_path: Path) -> State:
    results = tmp_path / "results"
    Made(size=2, run="r1").write(results)
    read = [calls("board", "build", results, "--out", tmp_path / "out" / "board")]
    return State(results / "run-r1.json", read, place=results)


def board_of(tmp_path: Path) -> Path:
    board = tmp_path / "board"
    if not board.exists():
        Made(size=3, run="r1").write(tmp_path / "made")
        main(["board", "build", str(tmp_path / "made"), "--out", str(board)])
    return board


def board_commands(board: Path, tmp_path: Path) -> list[Callable[[], int]]:
    return [
        calls("board", "check", board),
        calls("board", "export", board, "--out", tmp_path / "out" / "export"),
        calls("board", "build", "--out", board),
    ]


@pytest.fixture
def cell(tmp_path: Path) -> State:
    board = board_of(tmp_path)
    [path] = (board / "cells").rglob("*.json")
    return State(path, board_commands(board, tmp_path), place=board)


@pytest.fixture
def index(tmp_path: Path) -> State:
    board = board_of(tmp_path)
    return State(board / "index.json", board_commands(board, tmp_path), place=board)


@pytest.fixture
def calibration(tmp_path: Path) -> State:
    results, rate = tmp_path / "results", {"value": 1.0, "low": None, "high": None}
    agreement = {
        "source": "all",
        "scored": 2,
        "unscored": 0,
        "prompts": 2,
        "accuracy": rate,
        "kappa": rate,
        "false_positive_rate": {**rate, "value": 0.0},
        "false_negative_rate": {**rate, "value": 0.0},
        "confusion": {"complied": {"complied": 1, "refused": 0}, "refused": {"complied": 0, "refused": 1}},
    }
    found = Calibration.model_validate(
        {
            "judge": "keyword",
            "fingerprint": "a" * 64,
            "kind": "refusal",
            "labels": {"no": "refused"},
            "labels_sha256": "b" * 64,
            "agreements": [agreement],
        }
    )
    results.mkdir()
    path = results / "calibration_keyword.json"
    path.write_text(found.model_dump_json(), encoding="utf-8")
    return State(path, [calls("board", "build", results, "--out", tmp_path / "out" / "board")], place=results)


@pytest.fixture
def journal(tmp_path: Path) -> State:
    from shiftdc_eval.plugin.journal import Journal

    config = {"defense": "none"}
    sample = {"task": "t", "text": "answer", "tokens_in": 3, "tokens_out": 2, "seconds": 0.5, "notes": ["x"]}
    with Journal(tmp_path / "run", config) as made:
        made.append({"key": key, **sample} for key in "abc")

    def read() -> int:
        try:
            with Journal(tmp_path / "run", config) as again:
                for key in "abc":
                    found = again.get(key)
                    assert found is None or {"text", "tokens_in", "seconds"} <= found.keys()
        except ShiftDCError as error:
            print(f"shiftdc-eval: {error}", file=sys.stderr)
            return 2
        return 0

    return State(made.path, [read], 2, tmp_path / "run")


STATES = ["samples", "results_file", "run_record", "cell", "index", "calibration", "journal"]


@pytest.fixture(params=STATES)
def state(request: pytest.FixtureRequest) -> Any:
    """Each kind of state file."""
    return request.getfixturevalue(request.param)


def read_damaged(
    state: State, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> list[tuple[int, str]]:
    """Status and messages of every command that reads the damaged file, each from the same start."""
    assert state.place is not None
    kept = state.place.with_name("kept")
    if not kept.exists():
        shutil.copytree(state.place, kept)
    found = []
    for read in state.read:
        shutil.rmtree(state.place)
        shutil.copytree(kept, state.place)
        state.path.unlink()
        state.path.mkdir() if content is None else state.path.write_bytes(content)
        capsys.readouterr()
        status = read()
        printed = capsys.readouterr()
        found.append((status, printed.err if status == 2 else printed.out))
    return found


def refused_or_read(state: State, what: str, ended: list[tuple[int, str]]) -> None:
    for status, said in ended:
        assert status in (0, 1, 2), (what, said)
        lines = [line for line in said.splitlines() if line.startswith("shiftdc-eval")]
        assert "Traceback" not in said, (what, said)
        if status == 2:
            assert len(lines) == 1, (what, said)
            assert state.path.name in lines[0] or str(state.place) in lines[0], (what, said)
            assert len(lines[0]) < 1500, what
        elif status == 1:  # `board check` lists what is wrong
            assert state.path.name in said, (what, said)


def test_a_damaged_file_is_refused_by_name_or_read_as_far_as_it_is_whole(
    state: State, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole, tried = state.path.read_bytes(), 0
    for what, damage in WHOLE_FILE.items():
        ended = read_damaged(state, damage(whole), capsys)
        refused_or_read(state, what, ended)
        tried += len(ended)
    print(f"{state.path.name}: {tried} readings of a damaged file")


def test_a_record_with_a_field_missing_or_of_another_type_is_refused_by_name_or_read(
    state: State, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = state.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    record = whole if state.line is None else lines[state.line - 1]
    number = 0
    for number, (what, changed_record) in enumerate(each_field(record)):
        if state.line is None:
            content = changed_record
        else:
            content = b"".join([*lines[: state.line - 1], changed_record + b"\n", *lines[state.line :]])
        one = State(state.path, [state.read[number % len(state.read)]], state.line, state.place)
        refused_or_read(one, what, read_damaged(one, content, capsys))
    print(f"{state.path.name}: {number + 1} readings of a record with a wrong field")


@pytest.mark.parametrize("damage", ["empty", "cut in half", "zeros", "not UTF-8", "a folder", "words"])
def test_a_damaged_index_is_made_anew(index: State, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    whole = index.path.read_bytes()
    checked, _, built = read_damaged(index, WHOLE_FILE[damage](whole), capsys)
    assert checked[0] != 0
    assert built[0] == (2 if damage == "a folder" else 0)
    assert index.path.is_dir() or index.path.read_bytes() == whole


def test_a_damaged_cache_of_verdicts_is_refused_by_name_or_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from shiftdc_eval.judges import cli as judge_cli

    cache = tmp_path / "cache" / "verdicts.sqlite3"
    monkeypatch.setattr(
        judge_cli, "judges_for", lambda *_, **__: [judge_fed("refusal", *["Verdict: refused"] * 2)]
    )
    judge_fed("refusal", *["Verdict: refused"] * 2).judge(
        [Item("a", "request 0", "x"), Item("b", "request 1", "y")]
    )
    with sqlite3.connect(cache) as db:
        db.execute("PRAGMA journal_mode=DELETE")
    db.close()
    whole = cache.read_bytes()
    for what, damage in WHOLE_FILE.items():
        shutil.rmtree(cache.parent)
        shutil.rmtree(tmp_path / "results", ignore_errors=True)
        write_run(tmp_path / "results", [row(0, "x"), row(1, "y")])
        cache.parent.mkdir()
        content = damage(whole)
        cache.mkdir() if content is None else cache.write_bytes(content)
        capsys.readouterr()
        status = main(["judge", str(tmp_path / "results"), "--judge", "any"])
        said = capsys.readouterr()
        if status == 0:
            assert "refused 2" in said.out, what
        else:
            [line] = [line for line in said.err.splitlines() if line.startswith("shiftdc-eval")]
            assert (status, str(cache) in line) == (2, True), (what, line)
