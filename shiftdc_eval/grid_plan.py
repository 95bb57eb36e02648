"""Which cells of a grid there are to run: checked, selected, and told apart from those that are complete."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path

from shiftdc_eval.errors import ConfigError
from shiftdc_eval.grid_file import Cell
from shiftdc_eval.records import ANSWER_VERSION

COMPLETE = "cell.json"
"""The file of a cell's folder that is written last."""


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
    """Whether the cell was run to its end before, by the model that stands there now and by code that still
    answers alike (`ANSWER_VERSION`).

    A hub id stands for its `revision`; of a local model every file is read, so that changed weights under the
    same path are another model.
    """
    path = out / cell.folder / COMPLETE
    if not path.is_file():
        return False
    from shiftdc_eval.backbones.loading import revision_on_disk

    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    if not isinstance(known, dict) or known.get("answer_version") != ANSWER_VERSION:
        return False
    now = revision_on_disk(cell.model.pretrained)
    return now is None or now == known.get("revision")
