"""Pooling of seeds: the answers of several seeds to an item count as repeats of it.

A seed is not a new item: intervals and tests stay clustered by question, so seeds with equal answers add no
information, and intervals generalise to other questions, not to other seeds. Two defenses are compared seed by seed
on the seeds they share. The value of each seed is shown as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from shiftdc_eval.board.cell import Cell
from shiftdc_eval.board.compare import Member
from shiftdc_eval.board.ingest.rows import columns, rows_of
from shiftdc_eval.board.metrics import Answers, Column, measure
from shiftdc_eval.core.hashing import content_hash


def over_seeds(members: Sequence[Member]) -> tuple[list[Member], list[int]]:
    """The members of a comparison, one per defense, and their seeds."""
    seeds = sorted({member.column.answers.cell.seed for member in members})
    if len(seeds) == 1:
        return list(members), seeds
    times = 1 + max(max(member.column.answers.cell.samples.repeat or [0]) for member in members)
    systems: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        key = member.column.answers.cell.key()
        del key["seed"]
        systems[content_hash(key)].append(member)
    return [_pooled_member(found, seeds, times) for found in systems.values()], seeds


def _pooled_member(members: Sequence[Member], seeds: Sequence[int], times: int) -> Member:
    first, *others = sorted(members, key=lambda member: member.column.answers.cell.seed)
    cell = pooled([one.column.answers.cell for one in (first, *others)], first.column.judge.key, seeds, times)
    column = Column(Answers(cell), cell.judges[0], first.column.benign)
    return Member(
        cell=first.cell,
        measure=first.measure,
        column=column,
        index=first.index,
        others=tuple((other.cell, other.index) for other in others),
        pooled=measure(column),
    )


def pooled(cells: Sequence[Cell], judge: str, seeds: Sequence[int], times: int) -> Cell:
    """One cell with the answers of several, by one judge.

    Args:
        cells: equal in all but their seed.
        judge: key of the judge, which has a column in each cell.
        seeds: all seeds of the comparison; repeat r of the n-th seed becomes repeat n * times + r.
        times: largest number of repeats of an item.
    """
    rows = {}
    for cell in cells:
        own = [column for column in cell.judges if column.key == judge]
        for (item, repeat), row in rows_of(cell.model_copy(update={"judges": own})).items():
            rows[item, seeds.index(cell.seed) * times + repeat] = row
    samples, judges = columns(rows)
    return cells[0].model_copy(update={"samples": samples, "judges": judges})
