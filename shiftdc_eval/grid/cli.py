"""`shiftdc-eval grid run FILE`: every cell of a grid, each model loaded once, resumable after any kill.

Checks everything that can be known before a model is loaded, prints what there is to run, runs it, and ends with
the results and what failed. A killed grid goes on from its journals when the same command is called again.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from shiftdc_eval.core.errors import ConfigError, ShiftDCError
from shiftdc_eval.core.terminal import printable, say
from shiftdc_eval.grid.file import Cell, read_grid
from shiftdc_eval.grid.plan import COMPLETE, checked, selected, why_run
from shiftdc_eval.grid.preflight import refuse
from shiftdc_eval.grid.tasks import require_tasks

SHOWN = 3
"""Cells that are named where many failed for the same reason."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", choices=["run"], help="what to do with the grid")
    parser.add_argument("file", type=Path, help="grid file, yaml or toml")
    parser.add_argument("-o", "--out", type=Path, default=Path("results/grid"), help="output folder")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--only", action="append", default=[], help="run cells whose label matches this pattern"
    )
    parser.add_argument("--limit", type=int, help="only the first items of each task")
    parser.add_argument(
        "--include-path",
        action="append",
        type=Path,
        default=[],
        help="folder with yaml files of tasks; may be given several times",
    )
    parser.add_argument("--ray", action="store_true", help="run models as Ray tasks (extra [ray])")


def main(args: argparse.Namespace) -> int:
    """Plan, run what is missing, report; 1 when a cell failed.

    Raises:
        ConfigError: a grid file or selection that is wrong, or several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a grid is started as one process (WORLD_SIZE is above 1 here); --ray shares its cells out over GPUs and "
            "machines. One cell alone can have several processes: accelerate launch -m lmms_eval --model shiftdc_vlm "
            "--model_args ... --tasks ... --output_path DIR --log_samples"
        )
    grid = read_grid(args.file, args.include_path)
    cells = selected(list(grid.cells()), args.only, args.limit)
    refuse(args.file, grid, cells, args.out)
    checked(cells)  # no cell twice
    require_tasks(args.file, grid.tasks, grid.include_path)
    reasons = [why_run(cell, args.out) for cell in cells]
    todo = [cell for cell, reason in zip(cells, reasons, strict=True) if reason]
    _print_plan(cells, reasons)
    if args.dry_run:
        return 0
    failures = _run(todo, args) if todo else {}
    _print_results(cells, args.out)
    if failures:
        _print_failures(failures)
    return 1 if failures else 0


def _run(todo: Sequence[Cell], args: argparse.Namespace) -> dict[str, str]:
    from shiftdc_eval.grid.progress import shown

    with shown(todo, args.out) as report:
        if args.ray:
            from shiftdc_eval.grid.ray import run_with_ray
            from shiftdc_eval.grid.run import run_share

            return run_with_ray(todo, args.out, run_share)
        from shiftdc_eval.grid.run import run_cells

        return run_cells(todo, args.out, report=report)


def _print_results(cells: Sequence[Cell], out: Path) -> None:
    """The table of what is complete, and what to call next; a task that the board cannot take has none."""
    from rich.console import Console

    from shiftdc_eval.board.build import index_of
    from shiftdc_eval.board.ingest.join import join
    from shiftdc_eval.grid.table import tables

    folders = [out / cell.folder for cell in cells if (out / cell.folder / COMPLETE).is_file()]
    if not folders:
        return
    console = Console()
    try:
        for made in tables(index_of(join(folders, (), False), ())):
            console.print(made)
    except ShiftDCError as error:
        console.print(f"no table: {printable(error)}", markup=False)
    quoted = shlex.quote(str(out))
    say(
        f"next: shiftdc-eval board build {quoted} --out {shlex.quote(str(out / 'board'))}   (page, comparisons)"
    )
    say(f"      shiftdc-eval view {quoted}   (every sample)")


def _print_plan(cells: Sequence[Cell], reasons: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    todo = sum(map(bool, reasons))
    table = Table(title=f"{len(cells)} cells, {len(cells) - todo} complete, {todo} to run")
    for column in ("model", "defense", "task", "seed", "state"):
        table.add_column(column, overflow="fold")
    for cell, reason in zip(cells, reasons, strict=True):
        table.add_row(
            *(Text(printable(one)) for one in (cell.model_label, cell.defense_label, cell.task)),
            str(cell.seed),
            Text(f"to run: {reason}" if reason else "complete"),
        )
    Console().print(table)


def _print_failures(failures: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"{len(failures)} cells failed; run the same command again to retry them", show_lines=True
    )
    table.add_column("cell", overflow="fold")
    table.add_column("why", overflow="fold")
    labels: dict[str, list[str]] = {}
    for label, reason in failures.items():
        labels.setdefault(reason, []).append(label)
    for reason, cells in labels.items():
        more = [f"and {len(cells) - SHOWN} more"] if len(cells) > SHOWN else []
        # as they are: brackets in them are no markup
        table.add_row(*(Text(printable(one, "\n")) for one in ("\n".join([*cells[:SHOWN], *more]), reason)))
    Console().print(table)
