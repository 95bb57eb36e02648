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
from typing import TYPE_CHECKING, Any

from shiftdc_eval.errors import ConfigError

if TYPE_CHECKING:
    from shiftdc_eval.grid_file import Cell, Grid

CONTRAST = "contrast:"
"""A defense's `contrast` that begins so is a set made here: `contrast:40` has the first 40 pairs,
`contrast:shuffled` has the sides of about every other pair exchanged, so that it says nothing."""


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
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    table = actions.add_parser("table", help="sum up a finished sweep")
    table.add_argument("results", type=Path, help="folder of the cells")
    table.add_argument("-o", "--out", type=Path, help="folder for table and plot (the results' own)")
    for action in (run, table):
        action.add_argument("--judge", help="judge whose verdicts count; each cell's first when left out")


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
        return _table(args.results, args.out or args.results, args.judge)
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
        raise ConfigError(f"no sweep {name!r}: neither a grid file nor one of {', '.join(known)}")
    return Path(name)


def _run(args: argparse.Namespace) -> int:
    from shiftdc_eval.grid import Progress, is_complete, run_cells, selected
    from shiftdc_eval.grid_file import read_grid

    grid = with_contrast_sets(read_grid(_file(args.name)), args.out / "contrast")
    cells = selected(list(grid.cells()), [], args.limit)
    todo = [cell for cell in cells if not is_complete(cell, args.out / "results")]
    for line in plan(cells, todo):
        print(line)
    if args.dry_run:
        return 0
    failures = run_cells(todo, args.out / "results", report=Progress(len(todo)))
    for label, reason in failures.items():
        print(f"{label}: {reason}")
    if failures:
        return 1
    return _table(args.out / "results", args.out, args.judge)


def plan(cells: Sequence[Cell], todo: Sequence[Cell]) -> list[str]:
    """What a run takes: cells, and captions that are shared instead of made anew."""
    captions = {
        (cell.model.pretrained, cell.task, cell.defense.settings.get("caption_max_new_tokens"))
        for cell in cells
        if _captions(cell)
    }
    users = sum(_captions(cell) for cell in cells)
    return [
        f"{len(cells)} cells, {len(cells) - len(todo)} complete, {len(todo)} to run",
        f"captions: {len(captions)} sets are made, {users - len(captions)} are reused; text-only passes are "
        "repeated by every cell",
    ]


def _captions(cell: Cell) -> bool:
    return cell.defense.name in ("shiftdc", "random", "ecso_caption")


def with_contrast_sets(grid: Grid, folder: Path) -> Grid:
    """The same grid with files in place of `contrast:N` and `contrast:shuffled`.

    Raises:
        ConfigError: a set of more pairs than there are, or a word that is not known.
    """
    defenses = []
    for entry in grid.defenses:
        wanted = str(entry.settings.get("contrast", ""))
        if wanted.startswith(CONTRAST):
            model = grid.models[0].pretrained
            path = write_contrast(model, wanted.removeprefix(CONTRAST), folder)
            entry = entry.model_copy(update={"contrast": str(path)})
        defenses.append(entry)
    return grid.model_copy(update={"defenses": defenses})


def write_contrast(model: str, which: str, folder: Path) -> Path:
    """A part of a model's own contrast set (the built-in one where it has none) as a file.

    Raises:
        ConfigError: `which` is neither `shuffled` nor a number of pairs that the set has.
    """
    import json

    from shiftdc_eval import runs
    from shiftdc_eval.backbones.loading import BUNDLED
    from shiftdc_eval.contrast import load_contrast

    home = BUNDLED[model]()[0] if model in BUNDLED else Path(model)
    own = home / "contrast.jsonl"
    pairs = list(load_contrast(own if own.is_file() else None).pairs)
    if which == "shuffled":
        rows = _shuffled(pairs)
    elif which.isdigit() and 8 <= int(which) <= len(pairs):
        rows = [_row(pair, swap=False) for pair in pairs[: int(which)]]
    else:
        raise ConfigError(
            f"contrast: {CONTRAST}{which}: give {CONTRAST}shuffled or a number from 8 to {len(pairs)}"
        )
    path = folder / f"{which}.jsonl"
    runs.atomic_write(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def _shuffled(pairs: Sequence[Any]) -> list[dict[str, str]]:
    """Every other pair with its sides exchanged; a request that stands in several pairs keeps one side."""
    sides: dict[str, str] = {}
    rows = []
    for at, pair in enumerate(pairs):
        for swap in (at % 2 == 0, at % 2 == 1):
            row = _row(pair, swap=swap)
            wanted = {" ".join(row[side].casefold().split()): side for side in ("unsafe", "safe")}
            if all(sides.get(request, side) == side for request, side in wanted.items()):
                sides |= wanted
                rows.append(row)
                break
    return rows


def _row(pair: Any, *, swap: bool) -> dict[str, str]:
    unsafe, safe = ("safe", "unsafe") if swap else ("unsafe", "safe")
    row = {"id": pair.id, "unsafe": getattr(pair, unsafe), "safe": getattr(pair, safe)}
    if pair.unsafe_caption is not None:
        row["unsafe_caption"] = getattr(pair, f"{unsafe}_caption")
        row["safe_caption"] = getattr(pair, f"{safe}_caption")
    return row


def _table(results: Path, out: Path, judge: str | None) -> int:
    from shiftdc_eval import runs
    from shiftdc_eval.analysis import sweep_table
    from shiftdc_eval.board.files import canonical

    rows = sweep_table.rows(results, judge)
    summary = {"format": "shiftdc-sweep-1", "rows": rows, "random": sweep_table.against_random(rows)}
    runs.atomic_write(out / "sweep.json", canonical(summary))
    runs.atomic_write(out / "sweep.md", sweep_table.markdown(summary))
    sweep_table.plot(summary, out / "sweep.svg")
    print(sweep_table.markdown(summary), end="")
    print(f"table: {out / 'sweep.md'}   plot: {out / 'sweep.svg'}   numbers: {out / 'sweep.json'}")
    return 0
