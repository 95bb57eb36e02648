"""Files are written whole or not at all; what fails is one line, and no part of it stays."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from shiftdc_eval.core import files
from shiftdc_eval.core.errors import WriteError
from shiftdc_eval.core.files import RowFile, atomic_write, make_folder, remove_leftovers, replaced
from shiftdc_eval.core.locks import Busy, lock, locked


def fails(monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    """Let a system call of the writing boundary fail."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, call, fail)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "No space left on device; free space"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "change its permissions"),
        (errno.EROFS, "read-only: name another place"),
        (errno.EIO, "check it"),
    ],
)
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_failed_write_is_one_line_and_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, advice: str
) -> None:
    path = tmp_path / "run.json"
    atomic_write(path, "whole")
    with monkeypatch.context() as patch:
        fails(patch, call, code)
        with pytest.raises(WriteError, match=advice) as caught:
            atomic_write(path, "torn")
    assert str(caught.value).startswith(f"{path}: cannot be written: ")
    assert "\n" not in str(caught.value)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("run.json", "whole")]


def test_the_wrong_kind_of_thing_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match="a folder stands there: name a file"):
        atomic_write(tmp_path / "folder", "")
    for path in (tmp_path / "file" / "run.json", tmp_path / "file" / "below" / "run.json"):
        with pytest.raises(WriteError, match="a file stands where a folder is needed"):
            atomic_write(path, "")
    with pytest.raises(WriteError, match="a file stands where a folder is needed"):
        make_folder(tmp_path / "file")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "folder"]


def test_text_is_utf8_with_lf_and_broken_unicode_is_escaped(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a" / "b.txt", "é\n\ud83d")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"\xc3\xa9\n\\ud83d"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_who_may_read_a_file_is_for_the_umask_to_say_unless_it_is_public(
    tmp_path: Path, mask: int, mode: int
) -> None:
    before = os.umask(mask)
    try:
        for _ in range(2):
            atomic_write(tmp_path / "own", "")
        atomic_write(tmp_path / "public", "", mode=0o644)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("own", "public")]
    assert modes == [mode, 0o644]


def test_a_library_writes_beside_the_file_and_fails_without_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "figure.svg"
    with pytest.raises(WriteError, match="No such file"), replaced(path) as temporary:
        temporary.write_text("half" * len((tmp_path / "nothing").read_text()))
    assert list(tmp_path.iterdir()) == []
    with replaced(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def gone_process() -> int:
    """Id of a process that has ended."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def test_what_a_killed_process_left_is_removed_and_a_running_one_is_left_alone(tmp_path: Path) -> None:
    dead = tmp_path / f".run.json.{gone_process()}-01234567"
    reused = tmp_path / f".run.json.{os.getpid()}-01234567"
    running = tmp_path / f".run.json.{os.getppid()}-01234567"
    foreign = [tmp_path / name for name in (".run.json.bak", ".cache.deadbeef", ".profile")]
    for path in (dead, reused, running, *foreign):
        path.write_text("half")
    with replaced(tmp_path / "cell.json") as mine:
        mine.write_text("whole")
        remove_leftovers(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"cell.json", running.name, *(path.name for path in foreign)}


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_failed_append_leaves_no_part_of_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    rows = RowFile(tmp_path / "rows.jsonl", "give another folder")
    rows.append(b"one\n")
    real = os.write
    with monkeypatch.context() as patch:
        fails(patch, call, errno.ENOSPC)
        if call == "write":  # some bytes still fit
            room = iter([1])
            full = files.os.write

            def some(file: int, data: bytes) -> int:
                return real(file, data[:1]) if next(room, 0) else full(file, data)

            patch.setattr(files.os, "write", some)
        with pytest.raises(WriteError, match=r"rows.jsonl: .*free space.*\(give another folder\)"):
            rows.append(b"two\n")
    rows.append(b"three\n")
    rows.close()
    assert (tmp_path / "rows.jsonl").read_bytes() == b"one\nthree\n"


def test_a_lock_is_held_by_one_and_ends_with_its_block(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "lock"), pytest.raises(Busy):
        lock(tmp_path / "a" / "lock", wait=False)
    lock(tmp_path / "a" / "lock", wait=False).release()


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WriteError, match="a file stands where a folder is needed"),
        locked(tmp_path / "file" / "lock"),
    ):
        pass
