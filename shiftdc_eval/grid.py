"""`shiftdc-eval grid run FILE`: every cell of a grid, each model loaded once, resumable after any kill.

A cell's folder holds what lmms-eval writes, the run record and the journal; `cell.json` is written last, so
that its existence means the cell is complete. A cell that fails is reported and the others go on.
"""

from __future__ import annotations

import argparse
import fnmatch
import gc
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from shiftdc_eval.errors import ConfigError, RecordError, ShiftDCError
from shiftdc_eval.grid_file import Cell, ModelEntry, read_grid
from shiftdc_eval.runs import atomic_write

if TYPE_CHECKING:
    from shiftdc_eval.backbones import Backbone

    StandIn = Callable[[Backbone], Backbone]

COMPLETE = "cell.json"
Report = Callable[[Cell, str], None]


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
    parser.add_argument("--ray", action="store_true", help="run models as Ray tasks (extra [ray])")


def main(args: argparse.Namespace) -> int:
    """Plan, run what is missing, report; 1 when a cell failed.

    Raises:
        ConfigError: a grid file or selection that is wrong.
    """
    cells = selected(checked(list(read_grid(args.file).cells())), args.only, args.limit)
    todo = [cell for cell in cells if not is_complete(cell, args.out)]
    _print_plan(cells, todo)
    if args.dry_run or not todo:
        return 0
    if args.ray:
        from shiftdc_eval.grid_ray import run_with_ray

        failures = run_with_ray(todo, args.out, run_share)
    else:
        failures = run_cells(todo, args.out, report=Progress(len(todo)))
    if failures:
        _print_failures(failures)
    return 1 if failures else 0


def checked(cells: list[Cell]) -> list[Cell]:
    """The cells, once every defense and its settings are known to be right and no cell stands twice.

    Raises:
        ConfigError: names the defense, the setting or the cell.
    """
    from shiftdc_eval.arguments import AdapterArguments, split_arguments, validated
    from shiftdc_eval.defenses import DEFENSES

    fields = {name: list(defense.model_fields) for name, defense in DEFENSES.items()}
    seen: set[Path] = set()
    for cell in cells:
        split_arguments({"defense": cell.defense.name}, fields)
        own = [name for name in cell.defense.settings if name in AdapterArguments.model_fields]
        if own:
            raise ConfigError(
                f"grid: {own[0]} of defense {cell.defense.name} is no setting of a defense; it belongs to models, "
                "seeds or defaults"
            )
        split_arguments({"defense": cell.defense.name, **cell.defense.settings}, fields)
        validated(DEFENSES[cell.defense.name], cell.defense.settings, what=f"grid: {cell.defense.name}:")
        if cell.folder in seen:
            raise ConfigError(f"grid: the cell {cell.label} stands there twice")
        seen.add(cell.folder)
    return cells


def selected(cells: list[Cell], only: Sequence[str], limit: int | None) -> list[Cell]:
    """Cells whose label matches one of the patterns, with another limit.

    Raises:
        ConfigError: nothing is left.
    """
    kept = [cell for cell in cells if not only or any(fnmatch.fnmatch(cell.label, f"*{p}*") for p in only)]
    if not kept:
        raise ConfigError(f"--only {' '.join(only)} matches none of the {len(cells)} cells")
    if limit is not None:
        if limit < 1:
            raise ConfigError(f"--limit {limit}: give a number of items, at least 1")
        for cell in kept:
            cell.settings = cell.settings.model_copy(update={"limit": limit})
    return kept


def is_complete(cell: Cell, out: Path) -> bool:
    """Whether the cell was run to its end before."""
    return (out / cell.folder / COMPLETE).is_file()


def run_cells(
    cells: Sequence[Cell], out: Path, *, report: Report, stand_in: StandIn | None = None
) -> dict[str, str]:
    """Run cells in order; a model stays loaded from its first cell to its last.

    Args:
        cells: the cells.
        out: folder that their own folders stand in.
        report: told of every cell that ended.
        stand_in: puts something in a loaded model's place (a sweep: one that remembers its activations).

    Returns:
        Label -> reason of every cell that failed.
    """
    failures: dict[str, str] = {}
    for model in dict.fromkeys(cell.model for cell in cells):
        mine = [cell for cell in cells if cell.model == model]
        try:
            backbone = _load(model)
            backbone = stand_in(backbone) if stand_in else backbone
        except Exception as error:  # the boundary: one model that cannot be loaded must not stop the others
            reason = str(error) if isinstance(error, ShiftDCError) else f"{type(error).__name__}: {error}"
            failures |= {cell.label: f"cannot load the model: {reason}" for cell in mine}
            continue
        for cell in mine:
            try:
                run_cell(cell, backbone, out)
                report(cell, "done")
            except ShiftDCError as error:
                failures[cell.label] = str(error)
                report(cell, f"failed: {error}")
            except Exception as error:  # the boundary: one broken cell must not take the others with it
                atomic_write(out / cell.folder / "failure.txt", traceback.format_exc())
                failures[cell.label] = f"{type(error).__name__}: {error} (see failure.txt in its folder)"
                report(cell, f"failed: {type(error).__name__}")
        del backbone
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return failures


def run_share(cells: Sequence[Cell], out: Path) -> dict[str, str]:
    """What a worker of a cluster does: the cells that a worker before it has not completed."""
    return run_cells(
        [cell for cell in cells if not is_complete(cell, out)], out, report=lambda cell, said: None
    )


def run_cell(cell: Cell, backbone: Backbone, out: Path) -> None:
    """Answer and score one cell through lmms-eval's evaluator and write its files, `cell.json` last."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.loggers import EvaluationTracker

    from shiftdc_eval.adapter import ShiftDCVlm

    folder = out / cell.folder
    model = ShiftDCVlm(
        backbone=backbone,
        **{name: value for name, value in cell.model.model_dump().items() if value is not None},
        defense=cell.defense.name,
        **cell.defense.settings,
        batch_size=cell.settings.batch_size,
        system_prompt=cell.settings.system_prompt,
        seed=cell.seed,
        ablation=cell.defense.ablation,
        journal=folder,
    )
    tracker = EvaluationTracker(output_path=str(folder))
    stamp = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    for stale in folder.rglob("*_samples_*.jsonl"):
        stale.unlink()  # lmms-eval appends; what it holds is in the journal
    results: dict[str, Any] = simple_evaluate(
        model=model,
        tasks=[cell.task],
        task_manager=task_manager(),
        limit=cell.settings.limit,
        gen_kwargs=",".join(f"{name}={value}" for name, value in cell.settings.gen_kwargs.items()) or None,
        bootstrap_iters=0,
        datetime_str=stamp,
    )
    # not handed to the evaluator: given a model object, it would try to write that object down
    tracker.general_config_tracker.log_experiment_args(
        model_source="shiftdc_vlm",
        model_args=f"pretrained={cell.model.pretrained}",
        system_instruction=None,
        chat_template=None,
        fewshot_as_multiturn=False,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples, datetime_str=stamp)
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    _require_written(folder, stamp, {task: len(rows) for task, rows in samples.items()})
    atomic_write(folder / COMPLETE, _completion(cell))


def _require_written(folder: Path, stamp: str, rows: Mapping[str, int]) -> None:
    """lmms-eval only warns when it cannot save: check its files before calling a cell complete."""
    if not list(folder.rglob(f"{stamp}_results.json")):
        raise RecordError(f"lmms-eval wrote no results file in {folder}; its own message stands above")
    for task, count in rows.items():
        found = [path for path in folder.rglob(f"*_samples_{task}.jsonl")]
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in found)
        if lines < count:
            raise RecordError(f"lmms-eval wrote {lines} of {count} samples of {task} in {folder}")


def _completion(cell: Cell) -> str:
    from shiftdc_eval.adapter import ANSWER_VERSION

    content = {"answer_version": ANSWER_VERSION, **cell.description()}
    return json.dumps(content, indent=1, sort_keys=True, default=str) + "\n"


def _load(model: ModelEntry) -> Backbone:
    from shiftdc_eval.backbones import ModelSpec, load_backbone

    return load_backbone(ModelSpec(**model.model_dump()))


_manager: list[Any] = []


def task_manager() -> Any:
    """lmms-eval's task index, made once: it takes seconds."""
    if not _manager:
        import lmms_eval.models  # noqa: F401 (makes plugins known)
        from lmms_eval.tasks import TaskManager

        from shiftdc_eval.manifests import manifests

        manifests()
        _manager.append(TaskManager(verbosity="WARNING"))
    return _manager[0]


@dataclass
class Progress:
    """Prints one line a cell with the time that is left."""

    total: int
    begun: float = field(default_factory=time.monotonic)
    finished: int = 0

    def __call__(self, cell: Cell, said: str) -> None:
        self.finished += 1
        elapsed = time.monotonic() - self.begun
        left = elapsed / self.finished * (self.total - self.finished)
        print(
            f"[{self.finished}/{self.total}, {elapsed:.0f} s, {left:.0f} s left] {cell.label}: {said}",
            flush=True,
        )


def _print_plan(cells: Sequence[Cell], todo: Sequence[Cell]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(cells)} cells, {len(cells) - len(todo)} complete, {len(todo)} to run")
    for column in ("model", "defense", "task", "seed", "state"):
        table.add_column(column, overflow="fold")
    waiting = {id(cell) for cell in todo}
    for cell in cells:
        table.add_row(
            cell.model.pretrained,
            cell.defense_label,
            cell.task,
            str(cell.seed),
            "to run" if id(cell) in waiting else "complete",
        )
    Console().print(table)


def _print_failures(failures: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{len(failures)} cells failed; run the same command again to retry them", show_lines=True
    )
    table.add_column("cell", overflow="fold")
    table.add_column("why", overflow="fold")
    for label, reason in failures.items():
        table.add_row(label, reason)
    Console().print(table)
