"""Grid progress: one line per finished cell, or a live progress bar in a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import TextIOBase
from pathlib import Path
from typing import IO

from rich import progress
from rich.console import Console, RenderableType
from rich.text import Text

from shiftdc_eval.core.terminal import printable
from shiftdc_eval.grid.file import Cell
from shiftdc_eval.grid.plan import COMPLETE
from shiftdc_eval.tasks.catalogue import KNOWN

Report = Callable[[Cell, str, int], None]
"""Called for every cell that ended: the cell, its outcome (empty: said with another cell), and how many samples it
answered or reused."""


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
        if not said:
            return
        elapsed = time.monotonic() - self.begun
        left = elapsed / self.finished * (self.total - self.finished)
        rate = self.samples / max(elapsed, 1e-9)
        print(
            f"[{self.finished}/{self.total}, {self.samples} samples, {rate:.1f}/s, {elapsed:.0f} s, {left:.0f} s left] "
            f"{printable(f'{cell.label}: {said}')}",
            flush=True,
        )


@contextmanager
def shown(cells: Sequence[Cell], out: Path) -> Iterator[Report]:
    """Display progress while cells run; yields the callback that reports a finished cell."""
    if not sys.stdout.isatty():
        yield Progress(len(cells))
        return
    console = Console(file=sys.stdout)
    bar = Bar(cells, out, console)

    def report(cell: Cell, said: str, samples: int) -> None:
        bar.ended[cell.folder] = samples
        if said:
            console.print(Text(printable(f"{cell.label}: {said}")))

    with ExitStack() as stack:
        stack.enter_context(bar)
        stack.enter_context(redirect_stdout(stack.enter_context(Above(console, sys.stdout))))
        if sys.stderr.isatty():
            stack.enter_context(redirect_stderr(stack.enter_context(Above(console, sys.stderr))))
        yield report


class Above(TextIOBase):
    """Stands in for a stream: prints complete lines above the live display and drops carriage-return progress bars.

    As a context it prints at its end a last line without a line feed; it can be written to afterwards.
    """

    def __init__(self, console: Console, stream: IO[str]) -> None:
        self._console, self._stream, self._rest = console, stream, ""

    def __exit__(self, *_: object) -> None:
        self.write("\n")

    def fileno(self) -> int:
        """File descriptor of the wrapped stream, for subprocesses."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Print the lines that are complete."""
        if "\n" in text or not text.startswith("\r"):
            *lines, self._rest = (self._rest + text).split("\n")
            for line in filter(None, (Text.from_ansi(line.rstrip("\r")) for line in lines)):
                self._console.print(line)
        return len(text)


class Rate(progress.ProgressColumn):
    """Samples per second, without answers reused from earlier runs."""

    def render(self, task: progress.Task) -> Text:
        """The rate; a dash before the second batch."""
        return Text("–/s" if task.speed is None else f"{task.speed:.1f}/s")


class Bar(progress.Progress):
    """Progress bar driven by the journals and `cell.json` files, so that it works for cells run by other processes.

    Args:
        cells: the cells that are run.
        out: folder that their own folders stand in.
        console: where it is shown.
    """

    def __init__(self, cells: Sequence[Cell], out: Path, console: Console) -> None:
        super().__init__(
            progress.BarColumn(20),
            progress.TextColumn("cells {task.fields[cells]}/{task.fields[of]}"),
            progress.TextColumn("samples {task.completed}/{task.fields[most]}"),
            Rate(),
            progress.TimeRemainingColumn(),
            progress.TextColumn("left"),
            console=console,
            refresh_per_second=2,
            speed_estimate_period=3600,  # a batch may take minutes
            redirect_stdout=False,  # `Above` also drops the progress bars of others
            redirect_stderr=False,
        )
        self._cells, self._out = cells, out
        files = [self._complete(cell) for cell in cells] + [path for c in cells for path in self._journals(c)]
        self._before = {path: _changed(path) for path in files}
        self.ended: dict[Path, int] = {}
        """Samples of the cells that ended, by folder."""
        self.line = self.add_task("", total=None, cells=0, of=len(cells), most="?")

    def get_renderables(self) -> Iterable[RenderableType]:
        """Updates the counts before each redraw."""
        if self.tasks:
            self.look()
        yield from super().get_renderables()

    def look(self) -> None:
        """Recount finished cells and samples."""
        rows = {cell.folder: self.ended.get(cell.folder, self._answered(cell)) for cell in self._cells}
        for cell in self._cells:
            written = _changed(self._complete(cell))
            if written not in (None, self._before[self._complete(cell)]):
                self.ended.setdefault(cell.folder, rows[cell.folder])
        sizes = {cell.task: self.ended[cell.folder] for cell in self._cells if self.ended.get(cell.folder)}
        expected = [self.ended.get(cell.folder, _expected(cell, sizes)) for cell in self._cells]
        total = None if None in expected else sum(count or 0 for count in expected)
        most = "?" if total is None else total
        self.update(self.line, completed=sum(rows.values()), total=total, cells=len(self.ended), most=most)

    def _complete(self, cell: Cell) -> Path:
        return self._out / cell.folder / COMPLETE

    def _journals(self, cell: Cell) -> list[Path]:
        return list((self._out / cell.folder).glob("journal-*.jsonl"))

    def _answered(self, cell: Cell) -> int:
        """Answers in the journals that this run has modified; the first line of a journal is its header."""
        mine = [path for path in self._journals(cell) if _changed(path) != self._before.get(path)]
        return sum(max(0, _lines(path) - 1) for path in mine)


def _changed(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _lines(path: Path) -> int:
    try:
        return path.read_bytes().count(b"\n")
    except OSError:  # set aside by the run since it was listed; nothing here may end a grid
        return 0


def _expected(cell: Cell, sizes: dict[str, int]) -> int | None:
    """Expected samples of a cell: from the catalogue, or from a finished cell of the same task."""
    limit = cell.settings.limit
    info = KNOWN.get(cell.task)
    known = info.size or limit if info else None
    size = known or sizes.get(cell.task)
    return size if size is None or limit is None else min(size, limit)
