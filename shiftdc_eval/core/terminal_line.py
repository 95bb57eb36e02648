"""One line that says how far a long run is: live in a terminal, elsewhere a plain line now and then."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

from shiftdc_eval.core.environment import foreign
from shiftdc_eval.core.provenance import redact
from shiftdc_eval.core.terminal import printable
from shiftdc_eval.core.terminal_log import output_to

EVERY = 60.0
"""Seconds between plain lines where there is no terminal."""
REFRESH = 0.5
BRIEF = "{desc}: {n_fmt}/{total_fmt}"
BAR = f"{BRIEF}, {{percentage:.0f}} %, {{rate_fmt}}, {{remaining}} left{{postfix}}"


class Line:
    """The line, with whatever else is said above it.

    Args:
        stream: where it is shown.
        text: what it begins with; then come the tqdm bar that moved last, or else `stage` and its seconds.
        every: seconds between plain lines where the stream is no terminal.
    """

    def __init__(
        self, stream: IO[str], text: Callable[[], str] = lambda: "", *, every: float = EVERY
    ) -> None:
        self._stream, self._text, self._every = stream, text, every
        self.live = stream.isatty() and foreign("TERM") != "dumb"
        self._drawn, self._due, self._lock = "", time.monotonic() + every, threading.RLock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)
        self.stage = ""

    @property
    def stage(self) -> str:
        """What is being done."""
        return self._stage

    @stage.setter
    def stage(self, stage: str) -> None:
        self._stage, self._since = stage, time.monotonic()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.stage = ""
        self._draw()
        with self._lock:
            if self.live and self._drawn:
                self._write("\n")

    def say(self, text: str) -> None:
        """Print lines above it, and into the log, which stderr is meanwhile."""
        print(text, file=sys.stderr)
        with self._lock:
            self._erase()
            self._write(f"{printable(redact(text), keep=chr(10))}\n")
            self._draw()

    def _go_on(self) -> None:
        while not self._stop.wait(REFRESH):
            self._draw()

    def _draw(self) -> None:
        begun = self._text()
        parts = begun, _bar(BRIEF if begun else BAR) or self._staged()
        text = printable(redact("  ".join(filter(None, parts))))
        with self._lock:
            if self.live:
                from rich.cells import set_cell_size

                text = set_cell_size(text, min(len(text) * 2, self._width() - 1)).rstrip()
                if text != self._drawn:
                    self._erase()
                    self._write(text)
                    self._drawn = text
            elif time.monotonic() >= self._due and text and text != self._drawn:
                self._write(f"{text}\n")
                self._drawn, self._due = text, time.monotonic() + self._every

    def _erase(self) -> None:
        """With spaces: every terminal knows them."""
        if self.live and self._drawn:
            from rich.cells import cell_len

            self._write(f"\r{' ' * min(cell_len(self._drawn), self._width() - 1)}\r")
            self._drawn = ""

    def _staged(self) -> str:
        return self._stage and f"{self._stage} ({time.monotonic() - self._since:.0f} s)"

    def _width(self) -> int:
        columns = foreign("COLUMNS")
        if columns.isdigit() and int(columns):
            return max(2, int(columns))
        try:
            return max(2, os.get_terminal_size(self._stream.fileno()).columns or 80)
        except (OSError, ValueError):
            return 80

    def _write(self, text: str) -> None:
        with suppress(OSError, ValueError):  # nobody reads it any more; the run goes on
            self._stream.write(text)
            self._stream.flush()


class Above(logging.Handler):
    """Shows the warnings of this package above the line, each once; the log has all."""

    def __init__(self, line: Line, *, routine: bool) -> None:
        super().__init__(logging.WARNING)
        self._line, self._routine = line, routine
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        text = self.format(record)
        if text in self._said or (getattr(record, "routine", False) and not self._routine):
            print(text, file=sys.stderr)
        else:
            self._said.add(text)
            self._line.say(text)


@contextmanager
def shown(log: Path, text: Callable[[], str] = lambda: "", *, routine: bool = True) -> Iterator[Line]:
    """Show one line on stderr, and this package's warnings; what is printed besides goes to the log file.

    Args:
        log: the file, in a folder that is there.
        text: as of `Line`.
        routine: also show records that tell of a step.
    """
    ours = logging.getLogger("shiftdc_eval")
    with ExitStack() as stack:
        line = Line(stack.enter_context(output_to(log)), text)
        stack.enter_context(line)
        stack.enter_context(_undrawn_bars())
        handler = Above(line, routine=routine)
        ours.addHandler(handler)
        stack.callback(ours.removeHandler, handler)
        yield line


@contextmanager
def _undrawn_bars() -> Iterator[None]:
    """Let tqdm's bars count but not draw; one that ends leaves its last line in the log."""
    from tqdm import tqdm

    drawn, position = tqdm.display, os.environ.get("TQDM_POSITION")

    def display(bar: Any, msg: str | None = None, pos: int | None = None) -> bool:
        if bar.disable and msg is None:  # it is closed and stays
            bar.fp.write(str(bar))
        return True

    tqdm.display = display  # type: ignore[method-assign,assignment]
    os.environ["TQDM_POSITION"] = "-1"  # lets the hub's downloads count where stderr is no terminal
    try:
        yield
    finally:
        tqdm.display = drawn  # type: ignore[method-assign]
        os.environ.pop("TQDM_POSITION", None)
        if position is not None:
            os.environ["TQDM_POSITION"] = position


def _bar(form: str) -> str:
    """The bar that moved last, among those that have a name."""
    from tqdm import tqdm

    with suppress(RuntimeError):  # one was made in the meantime: the next look has it
        bars = [bar for bar in list(tqdm._instances) if bar.desc]  # type: ignore[attr-defined]
        if bars:
            bar = max(bars, key=lambda one: one.last_print_t)
            text = bar.format_meter(**{**bar.format_dict, "ncols": None, "bar_format": form})
            return " ".join(text.split())
    return ""
