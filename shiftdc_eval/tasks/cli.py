"""`shiftdc-eval tasks`: every task with its size, version, revision and licence."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.validation import nearest
from shiftdc_eval.tasks.catalogue import KNOWN, TASKS
from shiftdc_eval.tasks.folder.items import read
from shiftdc_eval.tasks.folder.settings import PREFIX, as_yaml, read_line
from shiftdc_eval.tasks.info import BLANK, TaskInfo
from shiftdc_eval.tasks.lmms_own.known import LMMS_TASKS

FULL_WIDTH = 136
"""Characters a line of the full table takes; narrower terminals and pipes are shown fewer columns."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument(
        "task",
        nargs="?",
        help="one task, shown with its known defects; or folder:path=DIR,kind=KIND,..., whose yaml is printed",
    )
    parser.add_argument("--json", action="store_true", help="print as JSON instead of a table")


def main(args: argparse.Namespace) -> int:
    """Print the table, or one task.

    Raises:
        ConfigError: no such task, or a wrong line.
        DataError: the CSV file that a line names is not whole.
    """
    if args.task is not None and args.task.startswith(PREFIX):
        return _describe_folder(args.task)
    if args.task is not None and args.task not in KNOWN:
        raise ConfigError(
            f"no task {args.task!r}{nearest(args.task, KNOWN)}; `shiftdc-eval tasks` lists them"
        )
    chosen = [KNOWN[args.task]] if args.task else list(TASKS.values())
    console = Console()
    if args.json:
        # soft_wrap: a pipe has no width, and JSON must not be broken in the middle of a word
        console.print(
            json.dumps([asdict(info) for info in chosen], indent=1), soft_wrap=True, highlight=False
        )
    elif args.task:
        console.print(_card(chosen[0]), soft_wrap=True, highlight=False)
    else:
        full = console.width >= FULL_WIDTH
        console.print(table(chosen, full=full))
        console.print(f"Each task with images has a control NAME{BLANK}: every image a grey one.")
        console.print(f"lmms-eval's own tasks that the board takes: {', '.join(LMMS_TASKS)}.")
        if not full:
            console.print("`shiftdc-eval tasks NAME` shows data source and main number, --json everything.")
    return 0


def _describe_folder(line: str) -> int:
    """Check the CSV file and images of a benchmark that a line names, and print its yaml file."""
    name, settings = read_line(line, Path())
    table = Path(settings.data_files)
    count = len(read(name, settings).examples)
    print(f"# {count} items. Save this as {table.parent / name}.yaml, then:")
    print(f"# lmms-eval --include_path {table.parent} --tasks {name} ...")
    print(as_yaml(name, settings.model_copy(update={"data_files": table.name})), end="")
    return 0


def table(infos: list[TaskInfo], *, full: bool) -> Table:
    """One row a task; without `full` it fits 80 columns."""
    grid = Table(box=box.SIMPLE, pad_edge=False)
    rows = [_row(info) for info in infos]
    for name in rows[0]:
        if full or name not in ("dataset", "main number"):
            grid.add_column(name, justify="right" if name in ("items", "v") else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(row[str(column.header)] for column in grid.columns))
    return grid


def _row(info: TaskInfo) -> dict[str, str]:
    return {
        "task": info.name,
        "items": "as set" if info.size is None else str(info.size),
        "v": str(info.version),
        "dataset": info.dataset,
        "revision": _short(info.revision),
        "licence": info.licence,
        "main number": info.metric + (" (benign)" if info.benign else ""),
    }


def _short(revision: str) -> str:
    return revision[:10] if len(revision) == 40 else revision


def _card(info: TaskInfo) -> str:
    lines = [
        f"{info.name}, version {info.version}: {info.about}",
        f"data: {info.dataset}, revision {info.revision}, licence {info.licence}",
        f"items: {'as set' if info.size is None else info.size}; main number: {info.metric}"
        + (" (benign: a refusal is the failure)" if info.benign else ""),
    ]
    if info.citation:
        lines.append(f"citation: {info.citation}")
    return "\n".join([*lines, *(f"known defect: {defect}" for defect in info.defects)])
