"""`shiftdc-eval demo`: a dozen defenses on the embedded tiny VLM, offline, in about a minute.

Shows the distortion and its repair: runs a grid file through lmms-eval's evaluator, builds a board from it and
prints one table, defenses down, tasks across, with 95 % intervals.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shiftdc_eval.board.index import Index
    from shiftdc_eval.grid.file import Cell

from shiftdc_eval.grid.table import defenses, main_measure, table

COLOURS = ("#444444", "#1f77b4", "#17becf", "#2ca02c", "#ff7f0e", "#d62728", "#9467bd", "#8c564b", "#e377c2")


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for results, board and plot")
    parser.add_argument("--grid", type=Path, help="another grid file")
    parser.add_argument("--limit", type=int, help="items a task")


def main(args: argparse.Namespace) -> int:
    """Run, show the table, write plot and page; 1 when a cell failed."""
    from shiftdc_eval.grid.file import read_grid
    from shiftdc_eval.grid.plan import selected

    path = args.grid or Path(str(files("shiftdc_eval.grid") / "demo.yaml"))
    cells = selected(list(read_grid(path).cells()), [], args.limit)
    with quiet():
        return _run(args, cells)


def _run(args: argparse.Namespace, cells: Sequence[Cell]) -> int:
    from rich.console import Console

    from shiftdc_eval.board.build import build
    from shiftdc_eval.board.index import Index
    from shiftdc_eval.grid.plan import is_complete
    from shiftdc_eval.grid.run import Progress, run_cells

    todo = [cell for cell in cells if not is_complete(cell, args.out / "results")]
    console = Console(width=max(Console().width, 120))
    console.print(f"{len(cells)} cells, {len(todo)} to run; everything is written below {args.out}/")
    failures = run_cells(todo, args.out / "results", report=Progress(len(todo)))
    for label, reason in failures.items():
        console.print(f"{label}: {reason}", style="red")
    build([args.out / "results"], args.out / "board", replace=True)
    index = Index.model_validate_json((args.out / "board" / "index.json").read_text(encoding="utf-8"))
    console.print(table(index))
    plot(index, args.out / "plot.svg")
    console.print(f"plot: {args.out / 'plot.svg'}   board: {args.out / 'board' / 'index.html'}")
    return 1 if failures else 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Only our own progress lines: bars and logs of a dozen small runs would drown them.

    Entered before anything else is imported: tqdm reads its variable at import.
    """
    os.environ["TQDM_DISABLE"] = "1"
    from loguru import logger
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logger.disable("lmms_eval")
    ours = logging.getLogger("shiftdc_eval")
    level = ours.level
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.enable("lmms_eval")
        ours.setLevel(level)
        del os.environ["TQDM_DISABLE"]


def plot(index: Index, path: Path) -> None:
    """ASR against utility: the mean over the attack tasks and over the score tasks, one point a defense."""
    from matplotlib.figure import Figure

    from shiftdc_eval.core.files import replaced

    figure = Figure(figsize=(8.4, 4.4), layout="constrained")
    axes = figure.subplots()
    marks, colours = itertools.cycle("osD^vP*Xh<>d"), itertools.cycle(COLOURS)
    points: dict[tuple[float, float], list[str]] = {}
    for defense in defenses(index):
        measures = [main_measure(cell) for cell in index.cells if cell.defense == defense]
        attacks = [m.value for m in measures if m.metric in ("keyword_asr", "asr") and m.value is not None]
        scores = [m.value for m in measures if m.metric == "score" and m.value is not None and m.value <= 1]
        if attacks and scores:
            x, y = 100 * sum(attacks) / len(attacks), 100 * sum(scores) / len(scores)
            points.setdefault((x, y), []).append(defense)
    for (x, y), names in points.items():
        axes.plot(x, y, next(marks), color=next(colours), markersize=9, alpha=0.8, label=", ".join(names))
    axes.set(
        xlim=(-5, 105),
        ylim=(-5, 105),
        xlabel="keyword ASR, mean over attacks (%)",
        ylabel="short questions right (%)",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9)
    with replaced(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png")
