"""Pooling of seeds: the answers of several seeds to an item count as repeats of it.

A seed is not a new item: intervals and tests stay clustered by question, so seeds with equal answers add no
information, and intervals generalise to other questions, not to other seeds. Two defenses are compared seed by seed
on the seeds they share. The value of each seed is shown as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from shiftdc_eval.board.cell import Cell, GroupColumn, JudgeColumn, Samples
from shiftdc_eval.board.compare import Member
from shiftdc_eval.board.metrics import Answers, Column, measure
from shiftdc_eval.core.hashing import content_hash

Place = tuple[int, int]
"""Cell and row of an answer."""


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
    column = Column(Answers(cell), cell.judges[0])
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
    keyed = [
        ((item, seeds.index(cell.seed) * times + repeat), (number, row))
        for number, cell in enumerate(cells)
        for row, (item, repeat) in enumerate(cell.samples.keys())
    ]
    keyed.sort()
    places = [place for _, place in keyed]
    samples = [cell.samples for cell in cells]

    def picked(columns: list[list[str]]) -> list[str]:
        return [columns[number][row] for number, row in places]

    several = any(one.question is not None for one in samples)
    return cells[0].model_copy(
        update={
            "samples": Samples(
                item=[item for (item, _), _ in keyed],
                question=picked([one.question or one.item for one in samples]) if several else None,
                repeat=[repeat for (_, repeat), _ in keyed],
                prompt=picked([one.prompt for one in samples]),
                image=picked([one.image for one in samples]),
                response=picked([one.response for one in samples]),
                groups=_groups(samples, places),
                flags=_rows([one.flags for one in samples], places),
            ),
            "judges": [_judge(cells, judge, places)],
        }
    )


def _groups(samples: Sequence[Samples], places: Sequence[Place]) -> dict[str, GroupColumn]:
    made = {}
    for name in sorted({name for one in samples for name in one.groups}):
        own = [one.groups.get(name) or GroupColumn(values=[], codes=[0] * len(one)) for one in samples]
        values = sorted({value for group in own for value in group.values})
        # the code behind the last value means that the answer is in no group
        codes = [[*map(values.index, group.values), len(values)] for group in own]
        merged = [codes[number][own[number].codes[row]] for number, row in places]
        made[name] = GroupColumn(values=values, codes=merged)
    return made


def _rows(columns: Sequence[dict[str, list[int]]], places: Sequence[Place]) -> dict[str, list[int]]:
    """Rows by flag or reason, as rows of the pooled cell."""
    new = {place: number for number, place in enumerate(places)}
    return {
        name: sorted(new[number, row] for number, one in enumerate(columns) for row in one.get(name, ()))
        for name in sorted({name for one in columns for name in one})
    }


def _judge(cells: Sequence[Cell], judge: str, places: Sequence[Place]) -> JudgeColumn:
    columns = [next(column for column in cell.judges if column.key == judge) for cell in cells]
    verdicts = [columns[number].verdicts[row] for number, row in places]
    costs = [column.cost for column in columns if column.cost is not None]
    return columns[0].model_copy(
        update={
            "models": sorted({model for column in columns for model in column.models}),
            "cost": sum(costs[1:], start=costs[0]) if costs and len(costs) == len(columns) else None,
            "verdicts": "".join(map(str, verdicts)) if columns[0].kind != "score" else verdicts,
            "reasons": _rows([column.reasons for column in columns], places),
        }
    )
