"""How far a grid is: a line a cell, or in a terminal a bar that moves while cells run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import timedelta
from io import TextIOBase
from pathlib import Path
from typing import IO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shiftdc_eval.grid.file import Cell
from shiftdc_eval.grid.plan import COMPLETE
from shiftdc_eval.tasks.catalogue import TASKS

Report = Callable[[Cell, str, int], None]
"""Told of every cell that ended: what became of it, and how many samples it answered or found answered."""


@dataclass
class Progress:
    """Prints one line a cell: cells and samples so far, their rate, and the time that is left."""

    total: int
    begun: float = field(default_factory=time.monotonic)
    finished: int = 0
    samples: int = 0

    def __call__(self, cell: Cell, said: str, samples: int) -> None:
        self.finished += 1
        self.samples += samples
        elapsed = time.monotonic() - self.begun
        left = elapsed / self.finished * (self.total - self.finished)
        rate = self.samples / max(elapsed, 1e-9)
        print(
            f"[{self.finished}/{self.total}, {self.samples} samples, {rate:.1f}/s, {elapsed:.0f} s, {left:.0f} s left] "
            f"{cell.label}: {said}",
            flush=True,
        )


@contextmanager
def shown(cells: Sequence[Cell], out: Path) -> Iterator[Report]:
    """Show how far the cells are while the block runs them; gives what is to be told of each that ended."""
    if not sys.stdout.isatty():
        yield Progress(len(cells))
        return
    console, watch = Console(file=sys.stdout), Watch(cells, out)

    def report(cell: Cell, said: str, samples: int) -> None:
        watch.ended[cell.folder] = samples
        console.print(Text(f"{cell.label}: {said}"))

    with ExitStack() as stack:
        # rich's own stand-ins read brackets in what others print as its markup
        stack.enter_context(
            Live(
                console=console,
                get_renderable=watch.line,
                refresh_per_second=2,
                redirect_stdout=False,
                redirect_stderr=False,
            )
        )
        stack.enter_context(redirect_stdout(stack.enter_context(Above(console, sys.stdout))))
        if sys.stderr.isatty():
            stack.enter_context(redirect_stderr(stack.enter_context(Above(console, sys.stderr))))
        yield report


class Above(TextIOBase):
    """Stands in for a stream: lines appear above what is shown live, the bars of others (`\\r`) give way to it.

    As a context it prints at its end what no line feed ended; it can be written to afterwards.
    """

    def __init__(self, console: Console, stream: IO[str]) -> None:
        self._console, self._stream, self._rest = console, stream, ""

    def __exit__(self, *_: object) -> None:
        self.write("\n")

    def fileno(self) -> int:
        """That of the stream, for processes that are started."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Print the lines that are complete."""
        if "\n" in text or not text.startswith("\r"):
            *lines, self._rest = (self._rest + text).split("\n")
            for line in filter(None, (Text.from_ansi(line.rstrip("\r")) for line in lines)):
                self._console.print(line)
        return len(text)


@dataclass(frozen=True)
class State:
    """How far cells are."""

    cells: int
    """Cells that ended."""
    samples: int
    """Samples answered, or found answered."""
    total: int | None
    """Samples of all cells; None where a task's size is not known before it is loaded."""
    rate: float
    """Samples answered a second."""
    left: float | None
    """Seconds left; None where nothing tells."""


class Watch:
    """Sees from the journals and `cell.json` files how far cells are, whichever process or machine runs them.

    Args:
        cells: the cells that are run.
        out: folder that their own folders stand in.
    """

    def __init__(self, cells: Sequence[Cell], out: Path) -> None:
        self._cells, self._out = cells, out
        self._begun = time.monotonic()
        self._rows: dict[Path, tuple[int, int]] = {}
        self._before = {path: self._count(path) for cell in cells for path in self._journals(cell)}
        self._earlier = {cell.folder: self._written(cell) for cell in cells}
        self.ended: dict[Path, int] = {}
        """Samples of the cells that were reported, by folder."""

    def state(self) -> State:
        """How far the cells are now."""
        rows = {cell.folder: self._answered(cell) for cell in self._cells}
        for cell in self._cells:
            if cell.folder not in self.ended and self._written(cell) not in (
                None,
                self._earlier[cell.folder],
            ):
                self.ended[cell.folder] = rows[cell.folder][0]
        sizes = {cell.task: self.ended[cell.folder] for cell in self._cells if self.ended.get(cell.folder)}
        samples = sum(self.ended.get(folder, count) for folder, (count, _) in rows.items())
        expected = [self.ended.get(cell.folder, _expected(cell, sizes)) for cell in self._cells]
        total = None if None in expected else sum(count or 0 for count in expected)
        elapsed = max(time.monotonic() - self._begun, 1e-9)
        rate = sum(fresh for _, fresh in rows.values()) / elapsed
        left = None
        if total is not None and rate:
            left = max(0, total - samples) / rate
        elif self.ended:
            left = elapsed / len(self.ended) * (len(self._cells) - len(self.ended))
        return State(len(self.ended), samples, total, rate, left)

    def line(self) -> RenderableType:
        """One line for a terminal."""
        state = self.state()
        total = "?" if state.total is None else state.total
        left = "–" if state.left is None else timedelta(seconds=round(state.left))
        table = Table.grid(padding=(0, 1))
        table.add_row(
            ProgressBar(total=len(self._cells), completed=state.cells, width=20),
            Text(f"cells {state.cells}/{len(self._cells)} · samples {state.samples}/{total}"),
            Text(f"· {state.rate:.1f}/s · {left} left"),
        )
        return table

    def _answered(self, cell: Cell) -> tuple[int, int]:
        """Answers in the journals that are being written to, and how many of them are new."""
        counts = [(self._count(path), self._before.get(path, 0)) for path in self._journals(cell)]
        growing = [(now, before) for now, before in counts if now != before]
        return sum(now for now, _ in growing), sum(now - before for now, before in growing)

    def _count(self, path: Path) -> int:
        """Answers in a journal; reads only what was added since the last call."""
        known, rows = self._rows.get(path, (0, 0))
        try:
            if path.stat().st_size < known:  # a torn last line was cut off
                known, rows = 0, 0
            with path.open("rb") as file:
                file.seek(known)
                added = file.read()
        except OSError:  # set aside by the run since it was listed; nothing else here may end a grid either
            return 0
        self._rows[path] = known + len(added), rows + added.count(b"\n")
        return max(0, self._rows[path][1] - 1)  # its first line names the configuration

    def _journals(self, cell: Cell) -> list[Path]:
        return list((self._out / cell.folder).glob("journal-*.jsonl"))

    def _written(self, cell: Cell) -> int | None:
        try:
            return (self._out / cell.folder / COMPLETE).stat().st_mtime_ns
        except OSError:
            return None


def _expected(cell: Cell, sizes: dict[str, int]) -> int | None:
    """Samples of a cell: as the catalogue says, or as the same task had before."""
    limit = cell.settings.limit
    known = TASKS[cell.task].size or limit if cell.task in TASKS else None
    size = known or sizes.get(cell.task)
    return size if size is None or limit is None else min(size, limit)
