"""`shiftdc-eval sweep run NAME` and `sweep table RESULTS`: the shipped ablations, each one table and one plot.

A sweep is a grid file in `shiftdc_eval/analysis/sweeps`; `sweep list` names them, `sweep show NAME` prints one to
start from. Every cell but the references is marked as an ablation and never ranks. The table pairs each
configuration with `none` on the same items; where random directions were run, it says where ShiftDC's effect lies
among theirs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, cast

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.validation import nearest

if TYPE_CHECKING:
    from shiftdc_eval.backbones import Backbone


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", required=True, metavar="list | show | run | table")
    actions.add_parser("list", help="name the shipped sweeps")
    show = actions.add_parser("show", help="print a shipped sweep's grid file")
    show.add_argument("name", help="name of a shipped sweep")
    run = actions.add_parser("run", help="run a sweep, then sum it up")
    run.add_argument("name", help="name of a shipped sweep, or a grid file")
    run.add_argument("-o", "--out", type=Path, default=Path("sweep"), help="output folder")
    run.add_argument("--limit", type=int, help="only the first items of each task")
    run.add_argument("--contrast", action="append", default=[], help="contrast set to add as an ablation")
    run.add_argument(
        "--direction", action="append", default=[], help="direction file or model of the same shape to add"
    )
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    table = actions.add_parser("table", help="sum up a finished sweep")
    table.add_argument("results", type=Path, help="folder of the cells")
    table.add_argument("-o", "--out", type=Path, help="folder for table and plot (the results' own)")
    table.add_argument(
        "--brief",
        action="store_true",
        help="print a line a configuration and a column a task, as in the docs",
    )
    for action in (run, table):
        action.add_argument("--judge", help="judge whose verdicts count; the first of none when left out")


def main(args: argparse.Namespace) -> int:
    """List, show, run or sum up; 1 when a cell failed.

    Raises:
        ConfigError: no such sweep.
        RecordError: results that cannot be read.
    """
    if args.action == "list":
        for name, path in shipped().items():
            print(f"{name:<18} {path.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}")
        return 0
    if args.action == "show":
        print(_file(args.name).read_text(encoding="utf-8"), end="")
        return 0
    if args.action == "table":
        return _table([args.results], args.out or args.results, args.judge, brief=args.brief)
    return _run(args)


def shipped() -> dict[str, Path]:
    """The shipped sweeps by name."""
    folder = Path(str(files("shiftdc_eval.analysis") / "sweeps"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _file(name: str) -> Path:
    known = shipped()
    if name in known:
        return known[name]
    if not Path(name).is_file():
        raise ConfigError(
            f"no sweep {name!r}{nearest(name, known)}: neither a grid file nor one of {', '.join(known)}"
        )
    return Path(name)


def _run(args: argparse.Namespace) -> int:
    file = _file(args.name)
    from shiftdc_eval.analysis.items import load_task
    from shiftdc_eval.analysis.sweeps import inputs as sweep_sets
    from shiftdc_eval.analysis.sweeps import plan as sweep_plan
    from shiftdc_eval.analysis.sweeps.activation_cache import ActivationStore, Remembering
    from shiftdc_eval.grid.file import read_grid
    from shiftdc_eval.grid.plan import checked, is_complete, selected
    from shiftdc_eval.grid.preflight import problems_of
    from shiftdc_eval.grid.run import Progress, run_cells
    from shiftdc_eval.grid.tasks import require_tasks
    from shiftdc_eval.plugin import preflight

    grid = sweep_sets.with_entries(read_grid(file), args.contrast, args.direction)
    if behind := [model.pretrained for model in grid.models if model.engine == "server"]:
        raise ConfigError(
            f"{file}: {', '.join(behind)}: a sweep edits and reads activations, which a server does not show; use "
            "`shiftdc-eval grid` for models behind a server"
        )
    wanted = selected(list(grid.cells()), [], args.limit)
    preflight.refuse(
        [
            *problems_of(file, grid, wanted),
            *preflight.output_problems(args.out, "--out"),
            *preflight.cache_problems(),
        ]
    )
    require_tasks(file, grid.tasks)
    grid, directions = sweep_sets.with_files(grid, args.out / "sets", file.parent)
    if len(grid.seeds) > 1:
        raise ConfigError(
            f"{file.name}: seeds: {grid.seeds}: a sweep's table is of one seed; run a folder a seed"
        )
    cells = selected(checked(list(grid.cells()), may_set=("contrast", "direction")), [], args.limit)
    todo = [cell for cell in cells if not is_complete(cell, args.out / "results")]
    tasks = {cell.task: load_task(cell.task) for cell in todo}
    sizes = [(cell, sweep_plan.size_of(cell, tasks.__getitem__)) for cell in todo]
    for line in sweep_plan.in_words(cells, sizes, sweep_plan.direction_texts(todo, sweep_sets.own_contrast)):
        print(line)
    if args.dry_run:
        return 0
    store = ActivationStore(args.out / "activations")

    def stand_in(backbone: Backbone) -> Backbone:
        sweep_sets.make_directions(directions, backbone)
        return cast("Backbone", Remembering(backbone, store))

    failures = run_cells(todo, args.out / "results", report=Progress(len(todo)), stand_in=stand_in)
    if todo:
        print(f"activations: {store.made} made, {store.reused} found in the store")
    for label, reason in failures.items():
        print(f"{label}: {reason}")
    if failures:
        return 1
    # the folder may hold other sweeps too
    return _table([args.out / "results" / cell.folder for cell in cells], args.out, args.judge)


def _table(folders: Sequence[Path], out: Path, judge: str | None, *, brief: bool = False) -> int:
    from shiftdc_eval.analysis.sweeps import plot as sweep_plot
    from shiftdc_eval.analysis.sweeps import table as sweep_table
    from shiftdc_eval.core.files import atomic_write
    from shiftdc_eval.core.json_files import canonical

    rows = sweep_table.rows(folders, judge)
    summary = {"format": "shiftdc-sweep-1", "rows": rows, "random": sweep_table.against_random(rows)}
    atomic_write(out / "sweep.json", canonical(summary))
    atomic_write(out / "sweep.md", sweep_table.markdown(summary))
    sweep_plot.plot(summary, out / "sweep.svg")
    print(sweep_table.brief(rows) if brief else sweep_table.markdown(summary), end="")
    print(f"table: {out / 'sweep.md'}   plot: {out / 'sweep.svg'}   numbers: {out / 'sweep.json'}")
    return 0
