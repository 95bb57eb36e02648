"""Cost of a sweep: forward passes of one prompt each, and how many are saved because cells share them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

from shiftdc_eval.defenses import DEFENSES
from shiftdc_eval.defenses.contrast import load_contrast
from shiftdc_eval.defenses.directions import HELD_OUT
from shiftdc_eval.defenses.passes import UNDEFENDED, Kind, Pass
from shiftdc_eval.grid.file import Cell
from shiftdc_eval.plugin.arguments import validated

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Size:
    """Items of a cell."""

    shown: int
    """With an image."""
    plain: int
    """Without."""


@dataclass(frozen=True)
class Counted:
    """A prompt through the model for several items of a cell."""

    kind: Kind
    count: int
    """Items."""
    shared: Hashable
    """Cells that name the same thing share the pass; None: it is this cell's alone."""


def size_of(cell: Cell, load: Callable[[str], Any]) -> Size:
    """Items of a cell, its limit taken into account.

    Raises:
        ConfigError, DataError: no such task of ours, or its data is missing.
    """
    examples = load(cell.task).source.examples[: cell.settings.limit]
    shown = sum(example.image is not None for example in examples)
    return Size(shown, len(examples) - shown)


def passes(cell: Cell, size: Size) -> Iterator[Counted]:
    """Forward passes of a cell, without the fit of its direction."""
    here = (cell.model, cell.task, cell.settings.system_prompt, cell.settings.limit)
    defense = validated(DEFENSES[cell.defense.name], _own(cell), what="sweep:")
    if not defense.asks_model:
        return
    answer = UNDEFENDED if cell.defense.name == "none" else Pass("answers")
    for one in (*defense.extra_passes(), answer):
        decoded = repr(cell.settings.gen_kwargs) if one.kind == "answers" else ""
        shared = None if one.shared is None else (here, one.shared, decoded)
        yield Counted(one.kind, size.shown + (size.plain if one.without_image else 0), shared)
    if size.plain:
        yield Counted("answers", size.plain, None)


def _own(cell: Cell) -> dict[str, Any]:
    """A defense's own settings; contrast and direction are the adapter's."""
    return {
        name: value
        for name, value in cell.defense.settings.items()
        if name in DEFENSES[cell.defense.name].model_fields
    }


def totals(todo: Sequence[tuple[Cell, Size]]) -> tuple[dict[str, int], dict[str, int]]:
    """Passes that are taken and passes that are saved, by kind."""
    taken, saved = dict.fromkeys(map(str, KINDS), 0), dict.fromkeys(map(str, KINDS), 0)
    seen: set[Hashable] = set()
    for cell, size in todo:
        for one in passes(cell, size):
            known = one.shared is not None and (one.kind, one.shared) in seen
            (saved if known else taken)[one.kind] += one.count
            seen.add((one.kind, one.shared))
    return taken, saved


def direction_texts(todo: Sequence[Cell], own_set: Callable[[str], Path | None]) -> tuple[int, int]:
    """Prompts that directions are fitted on: different ones, and those that several fits share.

    Args:
        todo: the cells.
        own_set: model -> contrast set that comes with it.
    """
    split = cache(lambda path: load_contrast(path).split(HELD_OUT)[0])
    fits: set[tuple[str, Path | None, tuple[Hashable, ...]]] = set()
    for cell in todo:
        given = cell.defense.settings
        model = cell.model.pretrained
        path = Path(given["contrast"]) if "contrast" in given else own_set(model)
        defense = validated(DEFENSES[cell.defense.name], _own(cell), what="sweep:")
        if "direction" not in given and (prompts := defense.fit_prompts(split(path))):
            fits.add((model, path, tuple(prompts)))
    texts = [(model, prompt) for model, _, prompts in fits for prompt in prompts]
    return len(set(texts)), len(texts) - len(set(texts))


def in_words(cells: Sequence[Cell], todo: Sequence[tuple[Cell, Size]], texts: tuple[int, int]) -> list[str]:
    """The plan as lines of text."""
    taken, saved = totals(todo)
    return [
        f"{len(cells)} cells, {len(cells) - len(todo)} complete, {len(todo)} to run",
        f"at most {sum(taken.values()) + texts[0]:,} forward passes of one prompt each: {_listed(taken)}, "
        f"{texts[0]:,} of directions",
        f"{sum(saved.values()) + texts[1]:,} more would be made if cells shared nothing: {_listed(saved)}, "
        f"{texts[1]:,} of directions",
    ]


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{counts[kind]:,} {kind}" for kind in KINDS)
