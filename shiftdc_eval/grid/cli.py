"""`shiftdc-eval grid run NAME|FILE`: every cell of a grid, each model loaded once, resumable after any kill.

`grid list` names the shipped grids, `grid show NAME` prints the file of one, to change it.

Checks everything that can be known before a model is loaded, prints what there is to run, runs it, and ends with
the results and what failed. A killed grid goes on from its journals when the same command is called again.
"""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill

from shiftdc_eval.core.errors import ConfigError, ShiftDCError, said_by
from shiftdc_eval.core.files import writing
from shiftdc_eval.core.terminal import printable, say
from shiftdc_eval.core.validation import nearest
from shiftdc_eval.grid.file import Cell, Grid, read_grid
from shiftdc_eval.grid.plan import COMPLETE, checked, selected, why_run
from shiftdc_eval.grid.preflight import refuse
from shiftdc_eval.grid.tasks import require_tasks
from shiftdc_eval.plugin import preflight

SHOWN = 3
"""Cells that are named where many failed for the same reason."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("action", choices=["list", "show", "run"], help="what to do with the grid")
    parser.add_argument(
        "file", nargs="?", default="", help="name of a shipped grid, or a grid file (yaml or toml)"
    )
    parser.add_argument("-o", "--out", type=Path, default=Path("results/grid"), help="output folder")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and what it costs, and stop")
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
    parser.add_argument("--verbose", action="store_true", help="show what lmms-eval prints; no log file")
    parser.add_argument("--ray", action="store_true", help="run models as Ray tasks (extra [ray])")


def main(args: argparse.Namespace) -> int:
    """List, show, or plan, run what is missing and report; 1 when a cell failed.

    Raises:
        ConfigError: a grid file or selection that is wrong, or several processes.
    """
    if args.action == "list":
        for name, path in shipped().items():
            said = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
            width = get_terminal_size().columns
            say(fill(f"{name:<15} {said}", width, subsequent_indent=" " * 16), keep="\n")
        return 0
    file = grid_file(args.file)
    if args.action == "show":
        print(file.read_text(encoding="utf-8"), end="")
        return 0
    return _planned(file, args)


def shipped() -> dict[str, Path]:
    """The shipped grid files by name."""
    folder = Path(str(files("shiftdc_eval.grid")))
    return {
        path.stem.replace("_", "-"): path for path in sorted(folder.glob("*.yaml")) if path.stem != "rates"
    }


def grid_file(name: str) -> Path:
    """A shipped grid's file, or the file of this path.

    Raises:
        ConfigError: neither is there.
    """
    known = shipped()
    if name in known:
        return known[name]
    if not Path(name).is_file():
        raise ConfigError(
            f"no grid {name!r}{nearest(name, known)}: neither a grid file nor one of {', '.join(known)}"
        )
    return Path(name)


def _planned(file: Path, args: argparse.Namespace) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a grid is started as one process (WORLD_SIZE is above 1 here); --ray shares its cells out over GPUs and "
            "machines. One cell alone can have several processes: accelerate launch -m lmms_eval --model shiftdc_vlm "
            "--model_args ... --tasks ... --output_path DIR --log_samples"
        )
    grid = read_grid(file, args.include_path)
    cells = selected(list(grid.cells()), args.only, args.limit)
    if args.dry_run:
        return _dry_run(file, grid, cells, args.out)
    refuse(file, grid, cells, args.out)
    checked(cells)  # no cell twice
    require_tasks(file, grid.tasks, grid.include_path)
    reasons = [why_run(cell, args.out) for cell in cells]
    todo = [cell for cell, reason in zip(cells, reasons, strict=True) if reason]
    _print_plan(cells, reasons)
    log = None if args.verbose else args.out / f"grid-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
    failures = _run(todo, args, log) if todo else {}
    _print_results(cells, args.out)
    if failures:
        _print_failures(failures)
        if log:
            say(f"log: {log}")
    return 1 if failures else 0


def _dry_run(file: Path, grid: Grid, cells: list[Cell], out: Path) -> int:
    """The plan and its cost; what is still missing (models, data, judges) is said after them, wrong names alone."""
    from shiftdc_eval.grid.cost import cost_of

    said = said_by(lambda: refuse(file, grid, cells, out))
    inline = [one for one in grid.include_path if "\n" in one]
    names = [name for name in grid.tasks if not any(f"task: {name}\n" in one for one in inline)]
    folders = [one for one in grid.include_path if one not in inline]
    wrong = [*preflight.task_problems(names, folders), *said_by(lambda: checked(cells))]
    if not wrong:
        require_tasks(file, grid.tasks, grid.include_path)
        reasons = [why_run(cell, out) for cell in cells]
        _print_plan(cells, reasons)
        for line in cost_of([cell for cell, why in zip(cells, reasons, strict=True) if why]).lines():
            say(line)
    preflight.refuse(said or wrong)
    return 0


def _run(todo: Sequence[Cell], args: argparse.Namespace, log: Path | None) -> dict[str, str]:
    from shiftdc_eval.grid.progress import shown

    if log:
        with writing(args.out):
            args.out.mkdir(parents=True, exist_ok=True)
        say(f"log: {log}", error=True)
    with shown(todo, args.out, log) as report:
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
    for column in ("model", "defense", "tasks", "seed", "state"):
        table.add_column(column, overflow="fold")
    rows: dict[tuple[str, ...], list[str]] = {}
    for cell, reason in zip(cells, reasons, strict=True):
        state = f"to run: {reason}" if reason else "complete"
        rows.setdefault((cell.model_label, cell.defense_label, str(cell.seed), state), []).append(cell.task)
    every = list(dict.fromkeys(cell.task for cell in cells))
    for (model, defense, seed, state), tasks in rows.items():
        named = f"all {len(every)}" if tasks == every and len(every) > 1 else ", ".join(tasks)
        table.add_row(*(Text(printable(one)) for one in (model, defense, named, seed, state)))
    if len(every) > 1:
        table.caption = Text(printable(f"tasks: {', '.join(every)}"))
        table.caption_justify = "left"
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
