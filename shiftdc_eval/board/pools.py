"""Answers of several tasks as one pool: which of them count for harm, over-refusal and utility, and their values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from shiftdc_eval.board.cell import Cell
from shiftdc_eval.board.metrics import scores_harm
from shiftdc_eval.board.official_means import means_of
from shiftdc_eval.core.records import BENIGN_ITEM
from shiftdc_eval.core.statistics import Bools, Floats

CLEAR_HARM = "clear_harm"
"""Flag of items that are harmful by themselves; where a task flags none, all its items but benign ones count."""
Key = tuple[str, str, int, int]
"""Task, item, seed and repeat of an answer."""
Counted = Callable[[Cell], tuple[Bools, Floats]]
"""[n] which answers of a cell count, and [n] their values, nan where unscored."""


@dataclass(frozen=True)
class Pool:
    """The answers of one defense that make one number."""

    keys: list[Key]
    values: Floats
    """[n] the values; nan where unscored."""
    questions: list[str]

    @property
    def tasks(self) -> dict[str, int]:
        """Its answers by task."""
        return dict(Counter(key[0] for key in self.keys))

    @property
    def items(self) -> set[tuple[str, str]]:
        """(task, item) of its answers."""
        return {key[:2] for key in self.keys}


def main_judge(cells: Sequence[Cell]) -> str:
    """Key of the refusal judge that judged the most answers; of equals one with a model, then the first by name."""
    answers: Counter[str] = Counter()
    modelled = set()
    for cell in cells:
        for column in cell.judges:
            if column.kind == "refusal" and (is_harmful(cell) | is_benign(cell)).any():
                answers[column.key] += len(cell.samples)
                modelled |= {column.key} if column.models else set()
    return min(answers, key=lambda key: (-answers[key], key not in modelled, key), default="")


def _rows(cell: Cell, flag: str) -> Bools:
    rows = np.zeros(len(cell.samples), np.bool_)
    rows[cell.samples.flags.get(flag, [])] = True
    return rows


def is_benign(cell: Cell) -> Bools:
    """[n] where a refusal is the failure."""
    return _rows(cell, BENIGN_ITEM) | (cell.task.benign and cell.task.utility is not True)


def is_harmful(cell: Cell) -> Bools:
    """[n] clear harm, of a benchmark where only a refusal is safe."""
    if cell.task.benign or cell.task.utility or means_of(cell.task.name).warning_is_safe:
        return np.zeros(len(cell.samples), np.bool_)
    clear = _rows(cell, CLEAR_HARM)
    return clear if clear.any() else ~_rows(cell, BENIGN_ITEM)


def has_image(cell: Cell) -> Bools:
    """[n] requests with an image."""
    return np.array([image != "" for image in cell.samples.image], np.bool_)


def by_judge(cell: Cell, judge: str, letter: str, chosen: Bools) -> tuple[Bools, Floats]:
    column = next((one for one in cell.judges if one.key == judge), None)
    if column is None or not isinstance(column.verdicts, str):
        return np.zeros_like(chosen), np.zeros(len(chosen))
    letters = np.frombuffer(column.verdicts.encode("ascii"), np.uint8)
    return chosen, np.where(letters == ord("-"), np.nan, letters == ord(letter))


def utility_scores(cell: Cell) -> tuple[Bools, Floats]:
    """[n] scores by the first judge of utility whose scores are from 0 to 1; nothing without one."""
    for column in cell.judges if cell.task.utility is not False else ():
        if column.kind == "score" and not scores_harm(cell, column):
            values = np.array([np.nan if one is None else one for one in column.verdicts], np.float64)
            if np.isnan(values).all() or (np.nanmin(values) >= 0 and np.nanmax(values) <= 1):
                return np.ones(len(values), np.bool_), values
    return np.zeros(len(cell.samples), np.bool_), np.zeros(len(cell.samples))


def pooled_answers(cells: Sequence[Cell], counted: Counted) -> Pool:
    """The answers that count, larger tasks first; a request that an earlier task asked is left out."""
    keys: list[Key] = []
    values: list[Floats] = [np.zeros(0)]
    questions: list[str] = []
    asked: dict[tuple[str, str], str] = {}
    for cell in sorted(cells, key=lambda cell: (-cell.task.items, cell.path)):
        chosen, own = counted(cell)
        samples, task = cell.samples, cell.task.name
        repeats, names = samples.repeat or [0] * len(samples), samples.question or samples.item
        rows = [
            row
            for row in np.flatnonzero(chosen).tolist()
            if asked.setdefault((samples.prompt[row], samples.image[row]), task) == task
        ]
        keys += [(task, samples.item[row], cell.seed, repeats[row]) for row in rows]
        values.append(own[rows])
        questions += [names[row] for row in rows]
    return Pool(keys, np.concatenate(values), questions)


def whole_of(base: Sequence[Pool] | None, pools: Sequence[Sequence[Pool]]) -> list[Pool]:
    """What each number is over: the answers of `none`, or where it has none those of the row with most."""
    most = [max(part, key=lambda one: len(one.keys)) for part in zip(*pools, strict=True)]
    return [own if own.keys else other for own, other in zip(base or most, most, strict=True)]


def of_tasks(pool: Pool, tasks: Collection[str]) -> Pool:
    """The answers to some tasks alone."""
    rows = [row for row, key in enumerate(pool.keys) if key[0] in tasks]
    if len(rows) == len(pool.keys):
        return pool
    return Pool([pool.keys[row] for row in rows], pool.values[rows], [pool.questions[row] for row in rows])


def in_both(first: Pool, second: Pool) -> tuple[Floats, Floats, list[str]]:
    """Values of the answers that both have and that are scored in both, and their questions."""
    if first.keys == second.keys:
        here = there = np.arange(len(first.keys))
    else:
        place = {key: row for row, key in enumerate(second.keys)}
        shared = [(row, place[key]) for row, key in enumerate(first.keys) if key in place]
        here, there = np.array(shared, np.int64).reshape(-1, 2).T
    known = ~np.isnan(first.values[here]) & ~np.isnan(second.values[there])
    here, there = here[known], there[known]
    return first.values[here], second.values[there], [first.questions[row] for row in here]
