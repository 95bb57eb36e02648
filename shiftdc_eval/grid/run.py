"""Running the cells of a grid: each model loaded once, resumable after any kill.

A cell's folder holds what lmms-eval writes, the run record and the journal; `cell.json` is written last, so
that its existence means the cell is complete. A cell that fails is reported and the others go on.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shiftdc_eval.backbones import load_backbone
from shiftdc_eval.backbones.interface import EVERYTHING, Capability
from shiftdc_eval.backbones.offload import free_unused
from shiftdc_eval.core.errors import ShiftDCError, WriteError
from shiftdc_eval.core.files import atomic_write, remove, writing
from shiftdc_eval.core.provenance import redact, redacted
from shiftdc_eval.grid.file import Cell
from shiftdc_eval.grid.plan import COMPLETE, answer_version, is_complete, selected
from shiftdc_eval.grid.progress import Progress, Report
from shiftdc_eval.grid.tasks import task_facts, task_manager
from shiftdc_eval.plugin.saved_files import require_whole

if TYPE_CHECKING:
    from shiftdc_eval.backbones import Backbone

    StandIn = Callable[[Backbone], Backbone]

FAILURE = "failure.txt"
"""File with the full traceback of a cell's unexpected error."""

__all__ = ["Progress", "is_complete", "run_cell", "run_cells", "run_share", "selected", "task_manager"]


def run_cells(
    cells: Sequence[Cell], out: Path, *, report: Report, stand_in: StandIn | None = None
) -> dict[str, str]:
    """Run cells in order; a model stays loaded from its first cell to its last.

    Args:
        cells: the cells.
        out: folder that their own folders stand in.
        report: called for every cell that ended.
        stand_in: wraps a loaded model (a sweep caches its activations).

    Returns:
        Label -> reason of every cell that failed.
    """
    failures: dict[str, str] = {}
    for model in dict.fromkeys(cell.model for cell in cells):
        mine = [cell for cell in cells if cell.model == model]
        try:
            backbone = load_backbone(model, EVERYTHING if stand_in else needed(mine))
            backbone = stand_in(backbone) if stand_in else backbone
        except Exception as error:  # the boundary: one model that cannot be loaded must not stop the others
            reason = str(error) if isinstance(error, ShiftDCError) else f"{type(error).__name__}: {error}"
            failures |= {cell.label: f"cannot load the model: {redact(reason)}" for cell in mine}
            others = f" ({len(mine)} cells)" if len(mine) > 1 else ""
            for cell in mine:  # said once; the others only count
                report(cell, f"failed: cannot load the model{others}" if cell is mine[0] else "", 0)
            continue
        for cell in mine:
            said, samples = "done", 0
            try:
                samples, left = run_cell(cell, backbone, out)
                if left:
                    said = f"done, {left} items without an answer; the same command asks for them again"
            except ShiftDCError as error:
                failures[cell.label] = redact(str(error))
                said = f"failed: {failures[cell.label]}"
            except Exception as error:  # the boundary: one broken cell must not take the others with it
                with suppress(WriteError):
                    atomic_write(out / cell.folder / FAILURE, redact(traceback.format_exc()))
                failures[cell.label] = (
                    redact(f"{type(error).__name__}: {error}") + f" (see {FAILURE} in its folder)"
                )
                said = f"failed: {type(error).__name__}"
            report(cell, said, samples)
        del backbone
        free_unused()
    return failures


def run_share(cells: Sequence[Cell], out: Path) -> dict[str, str]:
    """Run the incomplete cells; this is what a Ray worker executes."""
    return run_cells(
        [cell for cell in cells if not is_complete(cell, out)], out, report=lambda cell, said, samples: None
    )


def needed(cells: list[Cell]) -> frozenset[Capability]:
    """What the defenses of these cells ask of a backbone."""
    from shiftdc_eval.defenses.arguments import chosen

    defenses = (chosen(c.defense.name, c.defense.settings, what="grid:") for c in cells)
    return frozenset().union(*(defense.needed() for defense in defenses))


def run_cell(cell: Cell, backbone: Backbone, out: Path) -> tuple[int, int]:
    """Answer and score one cell through lmms-eval's evaluator and write its files, `cell.json` last.

    Returns:
        Samples of the cell, and how many of them are to be asked for again.
    """
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.loggers import EvaluationTracker

    from shiftdc_eval.plugin.adapter import ShiftDCVlm

    folder = out / cell.folder
    model = ShiftDCVlm(
        backbone=backbone,
        **{name: value for name, value in cell.model.model_dump().items() if value is not None},
        defense=cell.defense.name,
        **cell.defense.settings,
        batch_size=1 if cell.model.engine == "server" else cell.settings.batch_size,
        system_prompt=cell.settings.system_prompt,
        seed=cell.seed,
        ablation=cell.defense.ablation,
        journal=folder,
    )
    model.command = cell.command
    tracker = EvaluationTracker(output_path=str(folder))
    stamp = datetime.now(UTC).strftime("%Y%m%d_%H%M%S")
    results: dict[str, Any] = simple_evaluate(
        model=model,
        tasks=[cell.task],
        task_manager=task_manager(cell.include_path),
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
    # only now, so that a run that fails or is killed leaves what an earlier one had completed
    remove(folder / COMPLETE)
    for stale in folder.rglob("*_samples_*.jsonl"):
        remove(stale)  # lmms-eval appends; what it holds is in the journal
    with writing(folder):
        tracker.save_results_aggregated(results=redacted(results), samples=samples, datetime_str=stamp)
        for task in results["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])
    written = folder / tracker.general_config_tracker.model_name_sanitized / f"{stamp}_results.json"
    counts = {
        written.with_name(f"{stamp}_samples_{task}.jsonl"): len(samples[task]) for task in results["configs"]
    }
    require_whole(written, counts)
    remove(folder / FAILURE)
    atomic_write(folder / COMPLETE, _completion(cell, backbone.revision, model.to_ask_again))
    return sum(counts.values()), model.to_ask_again


def _completion(cell: Cell, revision: str, unanswered: int = 0) -> str:
    content = {
        **({"unanswered": unanswered} if unanswered else {}),
        "answer_version": answer_version(cell),
        "revision": revision,
        "tasks": task_facts(cell.task, cell.include_path),
        **cell.description(),
    }
    return json.dumps(redacted(content), indent=1, sort_keys=True, default=str) + "\n"
