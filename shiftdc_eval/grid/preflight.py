"""What can be known of a grid before a model is loaded: all of it at once, with the line of the grid file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import ConfigError, said_by
from shiftdc_eval.core.provenance import secret_in
from shiftdc_eval.defenses.arguments import known
from shiftdc_eval.defenses.registry import DEFENSES
from shiftdc_eval.grid.file import Cell, CellChange, CellSettings, Grid, place
from shiftdc_eval.grid.plan import checked, why_run
from shiftdc_eval.plugin import preflight
from shiftdc_eval.plugin.options import gen_kwargs_problems


def refuse(path: Path, grid: Grid, cells: Sequence[Cell], out: Path) -> None:
    """Raise if anything is wrong.

    Args:
        path: the grid file.
        grid: what stands in it.
        cells: those that are to be run; models, defenses and tasks of others are not looked at.
        out: folder of the results.

    Raises:
        ConfigError: a line a problem, with its place in the grid file.
    """
    todo = [cell for cell in cells if _to_run(cell, out)]
    problems = [
        *problems_of(path, grid, todo),
        *preflight.output_problems(out, "--out"),
        *preflight.cache_problems(),
    ]
    if any(cell.defense.settings for cell in cells):  # to know what is right takes the import of torch
        problems += _defense_problems(path, grid, cells)
    preflight.refuse(problems)


def _to_run(cell: Cell, out: Path) -> bool:
    """Whether a cell needs its model and data: a finished one does not."""
    return cell.defense.name not in DEFENSES or bool(why_run(cell, out))


def problems_of(path: Path, grid: Grid, cells: Sequence[Cell]) -> Iterator[str]:
    """Problems that can be found without importing a defense."""

    def at(*where: Any) -> str:
        return f"{place(path, list(where))}: "

    folders_used = Counter(cell.folder for cell in cells)
    for cell in {cell.folder: cell for cell in cells if folders_used[cell.folder] > 1}.values():
        yield f"{path}: the cell {cell.label} appears twice"
    for number, model in enumerate(grid.models):
        if any(cell.model == model for cell in cells):
            yield from (at("models", number) + said for said in preflight.model_problems(model))
    judged = list(preflight.judge_problems())
    folders = [one for one in grid.include_path if "\n" not in one]
    inline = [one for one in grid.include_path if "\n" in one]
    for number, name in enumerate(grid.tasks):
        mine = [cell for cell in cells if cell.task == name]
        if not mine or any(f"task: {name}\n" in one for one in inline):
            continue  # a line `folder:...` is read when the file is
        limits = [cell.settings.limit for cell in mine]
        most = None if None in limits else str(max(limit or 1 for limit in limits))
        found = [*preflight.task_problems([name], folders), *preflight.data_problems([name], most)]
        yield from (at("tasks", number) + said for said in found if said not in judged)
    yield from judged
    changes: list[tuple[list[Any], CellSettings | CellChange]] = [(["defaults"], grid.defaults)]
    changes += [(["overrides", n, "set"], override.set) for n, override in enumerate(grid.overrides)]
    for loc, settings in changes:
        for said in gen_kwargs_problems(settings.gen_kwargs or {}, "gen_kwargs"):
            yield at(*loc, "gen_kwargs") + said
        if why := secret_in(settings.system_prompt or ""):
            yield at(*loc, "system_prompt") + f"{why}; results are written down, leave it out"
    for number, defense in enumerate(grid.defenses):
        yield from (at("defenses", number) + s for s in said_by(lambda d=defense: known(d.name)))  # type: ignore[misc]
        for name, value in [*defense.settings.items(), ("ablation", defense.ablation)]:
            if why := secret_in(str(value)):
                yield at("defenses", number, name) + f"{why}; results are written down, leave it out"
    for number, seed in enumerate(grid.seeds):
        greedy = [
            c
            for c in cells
            if c.seed == seed and str(c.settings.gen_kwargs.get("do_sample")).lower() != "true"
        ]
        if greedy and seed != 0 and preflight.all_ours([greedy[0].task]):
            yield (
                at("seeds", number)
                + f"seed {seed} has no effect with greedy decoding ({greedy[0].label}): leave "
                "`seeds` out, or set gen_kwargs: {do_sample: true, temperature: T}"
            )


def _defense_problems(path: Path, grid: Grid, cells: Sequence[Cell]) -> Iterator[str]:
    for number, defense in enumerate(grid.defenses):
        if defense.name not in DEFENSES:
            continue  # said already
        try:
            checked([cell for cell in cells if cell.defense == defense][:1])
        except ConfigError as error:
            yield f"{place(path, ['defenses', number])}: {error}"
