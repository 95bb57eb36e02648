"""Cost of a sweep: forward passes of one prompt each, and how many are saved because cells share them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from shiftdc_eval.defenses.contrast import load_contrast
from shiftdc_eval.defenses.directions import HELD_OUT
from shiftdc_eval.grid.file import Cell
from shiftdc_eval.grid.passes import KINDS, Size, defense_of, passes


def size_of(cell: Cell, load: Callable[[str], Any]) -> Size:
    """Items of a cell, its limit taken into account.

    Raises:
        ConfigError, DataError: no such task of ours, or its data is missing.
    """
    examples = load(cell.task).source.examples[: cell.settings.limit]
    shown = sum(example.image is not None for example in examples)
    return Size(shown, len(examples) - shown)


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
        if "direction" not in given and (prompts := defense_of(cell).fit_prompts(split(path))):
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
