"""Planning a grid: validating cells, selecting them, and finding out which are complete."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.grid.file import Cell
from shiftdc_eval.grid.tasks import task_facts

COMPLETE = "cell.json"
"""The file of a cell's folder that is written last."""


def checked(cells: list[Cell], may_set: Collection[str] = ()) -> list[Cell]:
    """The cells, once every defense and its settings are known to be right and no cell appears twice.

    Args:
        may_set: arguments of the adapter that a defense may set here.

    Raises:
        ConfigError: names the defense, the setting or the cell.
    """
    from shiftdc_eval.backbones.interface import offered
    from shiftdc_eval.defenses.arguments import chosen, require
    from shiftdc_eval.plugin.arguments import AdapterArguments, split_arguments

    seen: set[Path] = set()
    for cell in cells:
        split_arguments({"defense": cell.defense.name})
        given = {name: value for name, value in cell.defense.settings.items() if name not in may_set}
        own = [name for name in given if name in AdapterArguments.model_fields]
        if own:
            raise ConfigError(
                f"grid: {own[0]} of defense {cell.defense.name} is no setting of a defense; it belongs to models, "
                "seeds or defaults"
            )
        split_arguments({"defense": cell.defense.name, **given})
        what = f"grid: {cell.defense.name}:"
        defense = chosen(cell.defense.name, given, what=what)
        require(defense, offered(cell.model), cell.model.engine)
        if cell.folder in seen:
            raise ConfigError(f"grid: the cell {cell.label} appears twice")
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


def answer_version(cell: Cell) -> int:
    """Version of the code that makes a cell's answers."""
    from shiftdc_eval.defenses.arguments import class_of

    defense = class_of(cell.defense.name, cell.defense.settings)
    own = {name: value for name, value in cell.defense.settings.items() if name in defense.model_fields}
    return defense(**own).answer_version


def is_complete(cell: Cell, out: Path) -> bool:
    """Whether there is nothing to run."""
    return not why_run(cell, out)


def why_run(cell: Cell, out: Path) -> str:
    """Why a cell is to be run; empty where it was run to its end before, by the model that stands there now, on
    tasks that are still the same and by code that still answers alike (`Settings.answer_version`).

    A hub id stands for its `revision`; of a local model every file is read, so that changed weights under the
    same path are another model. Of a task its version and the revision that its data is pinned to are compared.
    """
    path = out / cell.folder / COMPLETE
    if not path.is_file():
        return "not run yet"
    from shiftdc_eval.backbones.loading import revision_on_disk

    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        known = None
    if not isinstance(known, dict):
        return f"{COMPLETE} is damaged"
    if known.get("answer_version") != answer_version(cell):
        return "code answers otherwise now"
    if known.get("unanswered"):
        return f"{known['unanswered']} items without an answer"
    now = None if cell.model.engine == "server" else revision_on_disk(cell.model.pretrained)
    if now is not None and now != known.get("revision"):
        return "model changed"
    return _changed(known.get("tasks"), task_facts(cell.task, cell.include_path))


def _changed(before: object, now: Mapping[str, Mapping[str, str]]) -> str:
    """The first difference between recorded and current task facts; empty if none."""
    if not isinstance(before, dict):
        return "task version not noted"
    if before.keys() != now.keys():
        return "other tasks in the group"
    for name, facts in now.items():
        for fact, value in facts.items():
            if (was := before[name].get(fact)) != value:
                return f"{name}: {fact} {was} then, {value} now"
    return ""
