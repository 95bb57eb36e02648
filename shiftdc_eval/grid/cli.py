"""`shiftdc-eval grid run FILE`: every cell of a grid, each model loaded once, resumable after any kill.

Prints what there is to run, runs it, and ends with a table of what failed and why. A killed grid goes on from
its journals when the same command is called again.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.grid.file import Cell, Grid, place, read_grid
from shiftdc_eval.grid.plan import checked, selected, why_run
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
    cells = selected(_checked(args.file, grid), args.only, args.limit)
    require_tasks(args.file, grid.tasks, grid.include_path)
    reasons = [why_run(cell, args.out) for cell in cells]
    todo = [cell for cell, reason in zip(cells, reasons, strict=True) if reason]
    _print_plan(cells, reasons)
    if args.dry_run or not todo:
        return 0
    from shiftdc_eval.grid.progress import shown

    with shown(todo, args.out) as report:
        if args.ray:
            from shiftdc_eval.grid.ray import run_with_ray
            from shiftdc_eval.grid.run import run_share

            failures = run_with_ray(todo, args.out, run_share)
        else:
            from shiftdc_eval.grid.run import run_cells

            failures = run_cells(todo, args.out, report=report)
    if failures:
        _print_failures(failures)
    return 1 if failures else 0


def _checked(path: Path, grid: Grid) -> list[Cell]:
    """The cells, after a check of every defense; an error names the line of the defense."""
    cells = list(grid.cells())
    for number, defense in enumerate(grid.defenses):
        try:
            checked([cell for cell in cells if cell.defense == defense][:1])
        except ConfigError as error:
            raise ConfigError(f"{place(path, ['defenses', number])}: {error}") from error
    return checked(cells)


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
            Text(cell.model_label),
            Text(cell.defense_label),
            Text(cell.task),
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
        table.add_row(Text("\n".join([*cells[:SHOWN], *more])), Text(reason))
    Console().print(table)
