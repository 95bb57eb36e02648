"""Grid progress: one line per finished cell, and in a terminal a live line of cells, samples, rate and time left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from shiftdc_eval.core.terminal import printable
from shiftdc_eval.core.terminal_line import shown as line_shown
from shiftdc_eval.grid.file import Cell
from shiftdc_eval.grid.plan import COMPLETE
from shiftdc_eval.tasks.catalogue import KNOWN

Report = Callable[[Cell, str, int], None]
"""Called for every cell that ended: the cell, its outcome (empty: said with another cell), and how many samples it
answered or reused."""


def _print(text: str) -> None:
    print(text, flush=True)


@dataclass
class Progress:
    """Says one line a cell: cells and samples so far, their rate, and the time that is left."""

    total: int
    say: Callable[[str], None] = _print
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
        self.say(
            f"[{self.finished}/{self.total}, {self.samples} samples, {rate:.1f}/s, {elapsed:.0f} s, {left:.0f} s left] "
            f"{printable(f'{cell.label}: {said}')}"
        )


@contextmanager
def shown(cells: Sequence[Cell], out: Path, log: Path | None = None) -> Iterator[Report]:
    """Display progress while cells run; yields the callback that reports a finished cell.

    Args:
        cells: the cells that are run.
        out: folder that their own folders stand in.
        log: file for what is printed meanwhile; None: it stays in the terminal, and there is no live line.
    """
    if log is None:
        yield Progress(len(cells), lambda text: print(text, file=sys.stderr, flush=True))
        return
    counts = Counts(cells, out)
    with line_shown(log, counts.text, routine=False) as line:
        plain = Progress(len(cells), line.say)

        def report(cell: Cell, said: str, samples: int) -> None:
            counts.ended[cell.folder] = samples
            if not line.live:
                plain(cell, said, samples)
            elif said:
                line.say(printable(f"{cell.label}: {said}"))

        yield report


class State(NamedTuple):
    """How far a grid is."""

    cells: int
    """Cells that ended."""
    samples: int
    total: int | None
    """Samples in all; None where a task's size is not known yet."""
    rate: float | None
    """Samples a second, without answers reused from earlier runs; None before the second batch."""


class Counts:
    """Counts from the journals and `cell.json` files, so that cells that other processes run count too.

    Args:
        cells: the cells that are run.
        out: folder that their own folders stand in.
    """

    def __init__(self, cells: Sequence[Cell], out: Path) -> None:
        self._cells, self._out = cells, out
        files = [self._complete(cell) for cell in cells] + [path for c in cells for path in self._journals(c)]
        self._before = {path: _changed(path) for path in files}
        self.ended: dict[Path, int] = {}
        """Samples of the cells that ended, by folder."""
        self._moves: list[tuple[float, int]] = []

    def text(self) -> str:
        """The counts in words."""
        cells, samples, total, rate = self.look()
        left = "-" if total is None or not rate else timedelta(seconds=round((total - samples) / rate))
        return (
            f"cells {cells}/{len(self._cells)} samples {samples}/{'?' if total is None else total} "
            f"{'-' if rate is None else f'{rate:.1f}'}/s {left} left"
        )

    def look(self) -> State:
        """Recount finished cells and samples."""
        rows = {cell.folder: self.ended.get(cell.folder, self._answered(cell)) for cell in self._cells}
        for cell in self._cells:
            written = _changed(self._complete(cell))
            if written not in (None, self._before[self._complete(cell)]):
                self.ended.setdefault(cell.folder, rows[cell.folder])
        sizes = {cell.task: self.ended[cell.folder] for cell in self._cells if self.ended.get(cell.folder)}
        expected = [self.ended.get(cell.folder, _expected(cell, sizes)) for cell in self._cells]
        total = None if None in expected else sum(count or 0 for count in expected)
        samples = sum(rows.values())
        if samples > (self._moves[-1][1] if self._moves else 0):
            self._moves = [*self._moves[:1], (time.monotonic(), samples)]
        return State(len(self.ended), samples, total, self._rate())

    def _rate(self) -> float | None:
        if len(self._moves) < 2:
            return None
        (begun, first), (ended, last) = self._moves
        return (last - first) / max(ended - begun, 1e-9)

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
