"""A long run shows one line; what libraries print is in the log, whole and without secrets."""

import io
import os
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
from pseudo_terminal import in_terminal

from shiftdc_eval.core import terminal_line
from shiftdc_eval.core.terminal_line import Line

RUN = """
import ctypes, logging, os, sys, time, warnings
from pathlib import Path
from tqdm import tqdm
from shiftdc_eval.core.terminal import ROUTINE
from shiftdc_eval.core.terminal_line import shown
ours = logging.getLogger("shiftdc_eval.tasks")
early = sys.stderr
with shown(Path(sys.argv[1]), routine=False) as line:
    line.stage = "loading"
    print("printed canary4711")
    print("bound early", file=early)
    os.system("echo of a child")
    logging.getLogger("transformers").warning("theirs")
    warnings.warn("python's own")
    for _ in range(2):
        ours.warning("loaded 7 of 500 \\u2192 [/b] \\x1b[2J canary4711")
    ours.warning("a step", extra=ROUTINE)
    flood = b"x" * (1 << 20)  # more than a pipe holds, written while no thread of this process can run
    ctypes.PyDLL(None).write(2, flood, len(flood))
    with tqdm(total=4, desc="answers to a question", unit="sample") as bar:
        for _ in range(4):
            bar.update()
            time.sleep(0.6)
    print("half a line", end="")
print("the table")
"""
LOGGED = ("printed ***", "bound early", "of a child", "theirs", "python's own", "a step", "half a line")


def run(tmp_path: Path, **more: str) -> tuple[list[str], dict[str, str]]:
    environment = {**os.environ, "MY_TOKEN": "canary4711", "TERM": "xterm", **more}
    environment.pop("COLUMNS", None)
    return [sys.executable, "-c", RUN, str(tmp_path / "run.log")], environment


@pytest.mark.parametrize("utf8", [True, False])
def test_a_terminal_shows_one_line_and_our_warnings_and_the_log_has_the_rest(
    tmp_path: Path, utf8: bool
) -> None:
    ascii_only = {} if utf8 else {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, written = in_terminal(*run(tmp_path, PYTHONIOENCODING="utf-8" if utf8 else "", **ascii_only), 40)
    assert status == 0, written
    drawn = [part for line in written.split("\r\n") for part in line.split("\r") if part.strip()]
    arrow = "\u2192" if utf8 else r"\u2192"
    kept = [line.split("\r")[-1] for line in written.split("\r\n")]
    assert [line for line in kept if line] == [f"loaded 7 of 500 {arrow} [/b] \\x1b[2J ***", "the table"]
    assert any("answers to a question: 2/4, 50 %, " in part for part in drawn)
    assert all(len(part) < 40 for part in drawn if part.startswith(("answers", "loading")))
    log = (tmp_path / "run.log").read_text(encoding="utf-8")
    for said in (*LOGGED, "answers to a question: 100%", "x" * (1 << 20)):
        assert said in log
    assert log.count("loaded 7 of 500") == 2
    assert log.count("answers to a question") == 1, "a bar leaves one line"
    assert "canary4711" not in log + written


def test_a_pipe_gets_our_warnings_and_the_end_alone(tmp_path: Path) -> None:
    command, environment = run(tmp_path)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "the table\n"
    assert len(done.stderr.splitlines()) == 1
    assert "loaded 7 of 500" in done.stderr


def test_where_there_is_no_terminal_a_plain_line_comes_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_line, "REFRESH", 0.005)
    stream, numbers = io.StringIO(), count()
    with Line(stream, lambda: f"cells {next(numbers)}", every=0.1):
        time.sleep(0.35)
    lines = stream.getvalue().splitlines()
    assert 2 <= len(lines) <= 4
    assert all(line.startswith("cells ") for line in lines)


class Gone(io.StringIO):
    """A pipe whose reader has ended."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_is_gone_ends_nothing() -> None:
    with Line(Gone(), lambda: "cells 1", every=0.0) as line:
        line.say("loaded 7 of 500")


def test_a_full_disk_takes_the_log_and_ends_nothing(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.symlink_to("/dev/full")
    with terminal_line.shown(log):
        for _ in range(300):
            os.write(1, b"many words " * 1000 + b"\n")  # far more than a pipe holds
        subprocess.run(["true"], check=True)


def test_a_log_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="is a directory|Is a directory"), terminal_line.shown(tmp_path):
        pass
