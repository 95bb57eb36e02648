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
from shiftdc_eval.tasks.catalogue import TASKS
from shiftdc_eval.tasks.folder.items import read
from shiftdc_eval.tasks.folder.settings import PREFIX, as_yaml, read_line
from shiftdc_eval.tasks.info import TaskInfo

WIDTH = 150
"""Columns the table needs: a pipe has no width of its own, and names must not be broken."""


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
    if args.task is not None and args.task not in TASKS:
        raise ConfigError(f"no task {args.task!r}; there are: {', '.join(TASKS)}")
    chosen = [TASKS[args.task]] if args.task else list(TASKS.values())
    console = Console()
    console.width = max(console.width, WIDTH)
    if args.json:
        # soft_wrap: a pipe has no width, and JSON must not be broken in the middle of a word
        console.print(
            json.dumps([asdict(info) for info in chosen], indent=1), soft_wrap=True, highlight=False
        )
    elif args.task:
        console.print(_card(chosen[0]), soft_wrap=True, highlight=False)
    else:
        console.print(table(chosen))
    return 0


def _describe_folder(line: str) -> int:
    """Print the yaml file of a benchmark that a line names, once its CSV file and images are known to be whole."""
    name, settings = read_line(line, Path())
    table = Path(settings.data_files)
    count = len(read(name, settings).examples)
    print(f"# {count} items. Save this as {table.parent / name}.yaml, then:")
    print(f"# lmms-eval --include_path {table.parent} --tasks {name} ...")
    print(as_yaml(name, settings.model_copy(update={"data_files": table.name})), end="")
    return 0


def table(infos: list[TaskInfo]) -> Table:
    """One row a task."""
    grid = Table(box=box.SIMPLE, pad_edge=False)
    for name in ("task", "items", "v", "dataset", "revision", "licence", "main number"):
        grid.add_column(name, justify="right" if name in ("items", "v") else "left", no_wrap=True)
    for info in infos:
        size = "as set" if info.size is None else str(info.size)
        twin = " (benign)" if info.benign else ""
        grid.add_row(
            info.name,
            size,
            str(info.version),
            info.dataset,
            _short(info.revision),
            info.licence,
            info.metric + twin,
        )
    return grid


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
