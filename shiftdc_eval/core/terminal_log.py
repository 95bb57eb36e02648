"""What libraries print goes to a log file, secrets hidden.

A process of its own writes the file (`python -m shiftdc_eval.core.terminal_log`): a thread could not empty the pipe
while compiled code that prints holds the interpreter. Where the file takes no more, the rest is dropped: no run ends
for its log.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import IO

from shiftdc_eval.core.provenance import redact

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
PATIENCE = 5
"""Seconds that the writer may take for the rest; a process that was left running may hold its pipe for ever."""


@contextmanager
def output_to(log: Path) -> Iterator[IO[str]]:
    """Send what this process and its children write to stdout and stderr to a file; yields what stderr was.

    Raises:
        OSError: the file cannot be opened.
    """
    with log.open("ab") as file:
        writer = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it
        )
    shown = _duplicate(sys.stderr)
    assert writer.stdin is not None
    _flush()
    kept = {number: _kept(number) for number in (1, 2)}
    for number in kept:
        os.dup2(writer.stdin.fileno(), number)
    out, err = (_text(number, "utf-8", closefd=False) for number in kept)
    try:
        # objects too: they may stand for something else than their descriptors
        with redirect_stdout(out), redirect_stderr(err):
            try:
                yield shown
            finally:
                _flush()
    finally:
        _flush()  # what was bound to the objects themselves
        for number, copy in kept.items():
            if copy is None:
                os.close(number)
            else:
                os.dup2(copy, number)
                os.close(copy)
        if shown is not sys.stderr:
            shown.close()
        writer.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            writer.wait(PATIENCE)


def pass_on(output: IO[bytes], into: IO[str] | None = None) -> None:
    """Write the output of a process into a file without its colours, or to stdout, as it comes, secrets hidden."""
    stream = into or sys.stdout
    # newline="": progress bars keep their carriage returns
    for line in io.TextIOWrapper(output, encoding="utf-8", errors="replace", newline=""):
        stream.write(redact(COLOUR.sub("", line) if into else line))
        stream.flush()


def _duplicate(stream: IO[str]) -> IO[str]:
    """The stream on a descriptor of its own; itself where it has none."""
    try:
        number = os.dup(stream.fileno())
    except (OSError, ValueError, AttributeError):  # closed, captured or absent
        return stream or open(os.devnull, "w", encoding="utf-8")
    return _text(number, getattr(stream, "encoding", "utf-8"), closefd=True)


def _text(number: int, encoding: str, *, closefd: bool) -> IO[str]:
    return open(number, "w", encoding=encoding, errors="backslashreplace", buffering=1, closefd=closefd)


def _kept(number: int) -> int | None:
    try:
        return os.dup(number)
    except OSError:  # closed by the caller
        return None


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):
            stream.flush()


def main() -> None:
    """Copy stdin to stdout, the file."""
    try:
        with (
            open(os.dup(0), "rb") as output,
            open(1, "w", encoding="utf-8", errors="backslashreplace", newline="", closefd=False) as file,
        ):
            pass_on(output, file)
    except OSError:
        while os.read(0, 1 << 16):
            pass


if __name__ == "__main__":
    main()
