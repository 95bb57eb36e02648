"""Seeds pooled: what several seeds answer to an item counts as repeats of it.

A seed is no new item: intervals and tests stay clustered by question, so that seeds which all say the same add
nothing, and what is generalised to is other questions, not other seeds. Two defenses are compared seed by seed
on the seeds they share. The value of each seed stands beside, so that the spread over seeds can be seen.
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
    """The members of a comparison, one a defense, and their seeds."""
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
        cells: alike in all but their seed.
        judge: key of the judge, which has a column in each.
        seeds: all seeds of the comparison: repeat r of the n-th becomes repeat n * times + r.
        times: repeats of an item at most.
    """
    keyed = [
        ((item, seeds.index(cell.seed) * times + repeat), (number, row))
        for number, cell in enumerate(cells)
        for row, (item, repeat) in enumerate(cell.samples.keys())
    ]
    keyed.sort()
    places = [place for _, place in keyed]
    samples = [cell.samples for cell in cells]
    asked = [one.question or one.item for one in samples]
    own_questions = all(one.question is None for one in samples)
    return cells[0].model_copy(
        update={
            "samples": Samples(
                item=[item for (item, _), _ in keyed],
                question=None if own_questions else [asked[number][row] for number, row in places],
                repeat=[repeat for (_, repeat), _ in keyed],
                prompt=[samples[number].prompt[row] for number, row in places],
                image=[samples[number].image[row] for number, row in places],
                response=[samples[number].response[row] for number, row in places],
                groups=_groups(samples, places),
                flags=_rows([one.flags for one in samples], places),
            ),
            "judges": [_judge(cells, judge, places)],
        }
    )


def _groups(samples: Sequence[Samples], places: Sequence[Place]) -> dict[str, GroupColumn]:
    made = {}
    for name in sorted({name for one in samples for name in one.groups}):
        values = sorted({value for one in samples if name in one.groups for value in one.groups[name].values})
        code = {value: number for number, value in enumerate(values)}
        # the last code stands for no group
        codes = [
            [code[value] for value in one.groups[name].values] + [len(values)] if name in one.groups else []
            for one in samples
        ]
        made[name] = GroupColumn(
            values=values,
            codes=[
                codes[number][samples[number].groups[name].codes[row]] if codes[number] else len(values)
                for number, row in places
            ],
        )
    return made


def _rows(columns: Sequence[dict[str, list[int]]], places: Sequence[Place]) -> dict[str, list[int]]:
    """Rows by flag or reason, renumbered."""
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
