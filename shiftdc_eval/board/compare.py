"""Comparison of defenses: paired differences, Holm adjustment, detectable differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from shiftdc_eval.board.index import (
    ALONE,
    DIGITS,
    UNSCORED,
    Comparison,
    Entry,
    IndexCell,
    Measure,
    Pair,
    lower_is_better,
    too_many_unscored,
)
from shiftdc_eval.board.metrics import Column
from shiftdc_eval.core import statistics
from shiftdc_eval.core.hashing import content_hash
from shiftdc_eval.core.statistics import Difference, Ints

LEVEL = 0.05


@dataclass(frozen=True)
class Member:
    """One column in a comparison; several seeds are pooled."""

    cell: int
    measure: int
    column: Column
    index: IndexCell
    others: tuple[tuple[int, IndexCell], ...] = ()
    """Number and index entry of the cells of other seeds."""
    pooled: Measure | None = None

    @property
    def shown(self) -> Measure:
        """The measure, over all seeds."""
        return self.pooled or self.index.measures[self.measure]

    @property
    def reasons(self) -> list[str]:
        """Why it does not rank by this judge."""
        cells = [self.index, *(cell for _, cell in self.others)]
        found = list(dict.fromkeys(reason for cell in cells for reason in cell.not_ranked))
        if too_many_unscored(self.shown):
            found.append(UNSCORED)
        elif self.shown.value is None:
            found.append("a subtask has no image with two scored answers")
        return found


def family_key(column: Column) -> str:
    """Equal for columns that may be compared: the cell's key without defense and seed, and the judge."""
    key = column.answers.cell.key()
    del key["defense"], key["seed"]
    return content_hash([key, column.judge.key, column.metric])


def compare(members: Sequence[Member], seeds: Sequence[int]) -> Comparison:
    """One comparison; its entries are sorted by value, best first, and those outside the Holm family come last."""
    metric = members[0].column.metric
    sign = 1 if lower_is_better(metric) else -1

    def order(member: Member) -> tuple[bool, float, str]:
        value = member.shown.value
        return bool(member.reasons), float("inf") if value is None else sign * value, member.index.path

    ordered = sorted(members, key=order)
    ranked = [member for member in ordered if not member.reasons]
    pairs = _pairs(ordered, len(ranked))
    first = ordered[0].index
    return Comparison(
        task=first.task,
        version=first.version,
        revision=first.revision,
        model=first.model,
        judge=first.measures[ordered[0].measure].judge,
        metric=metric,
        seeds=list(seeds),
        entries=[
            Entry(
                cell=member.cell,
                measure=member.measure,
                not_ranked=member.reasons or ([] if len(ranked) > 1 else [ALONE]),
                also=[number for number, _ in member.others],
                pooled=member.pooled,
            )
            for member in ordered
        ],
        pairs=pairs,
        power=_power(pairs, members[0].column.is_rate),
    )


def _pairs(ordered: Sequence[Member], ranked: int) -> list[Pair]:
    """All pairs of ranked members, and each other member against `none`."""
    wanted = [(*pair, True) for pair in combinations(ordered[:ranked], 2)]
    flips = statistics.flips_for(len(wanted))
    nones = [member for member in ordered if member.index.defense_name == "none"]
    wanted += [(member, none, False) for member in ordered[ranked:] for none in nones if member is not none]
    found = []
    for first, second, both in wanted:
        difference = paired(first.column, second.column, flips)
        if difference.n:
            found.append((first, second, difference, both))
    holm = statistics.holm([difference.p for *_, difference, both in found if both])
    tests = max(1, sum(p >= LEVEL for p in holm))
    adjusted = iter(holm)
    return [
        Pair(
            first=first.cell,
            second=second.cell,
            value=round(difference.value, DIGITS) + 0.0,
            low=round(difference.low, DIGITS) + 0.0,
            high=round(difference.high, DIGITS) + 0.0,
            n=difference.n,
            size=round(difference.size, 1),
            first_only=difference.first_only,
            second_only=difference.second_only,
            p=significant(difference.p),
            p_holm=significant(next(adjusted)) if both else None,
            detectable=round(_detectable(first.column, difference, tests if both else 1), DIGITS),
        )
        for first, second, difference, both in found
    ]


def paired(first: Column, second: Column, flips: int = statistics.MIN_FLIPS) -> Difference:
    """Difference over the answers that both columns scored; `flips` as in `statistics.drawn_flip_p`."""
    here, there = shared_rows(first, second)
    both = first.scored[here] & second.scored[there]
    here, there = here[both], there[both]
    a, b, questions = first.values[here], second.values[there], first.answers.questions[here]
    if first.is_rate:
        return statistics.paired_proportions(a > 0.5, b > 0.5, questions)
    if first.is_mme:
        subtasks, repeats = first.answers.subtasks[here], first.answers.repeats[here]
        return statistics.paired_mme(a, b, questions, subtasks, repeats, flips)
    return statistics.paired_scores(a, b, questions, flips)


def shared_rows(first: Column, second: Column) -> tuple[Ints, Ints]:
    """Rows of the answers both cells have, in the same order."""
    keys, others = first.answers.keys, second.answers.keys
    if keys == others:
        everything = np.arange(len(keys))
        return everything, everything
    place = {key: row for row, key in enumerate(others)}
    rows = [(row, place[key]) for row, key in enumerate(keys) if key in place]
    both = np.array(rows, np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def _detectable(column: Column, difference: Difference, tests: int) -> float:
    if column.is_rate:
        discordant = (difference.first_only + difference.second_only) / difference.n
        return statistics.detectable_difference(difference.size, discordant, tests)
    spread = (difference.high - difference.low) / (2 * statistics.Z)
    return statistics.detectable_errors(tests) * spread


def _power(pairs: Sequence[Pair], rate: bool) -> str:
    """Which pairs are not separable; the reported detectable difference is never below the sample's resolution."""
    tested = [pair for pair in pairs if pair.p_holm is not None]
    open_pairs = [pair for pair in tested if pair.p_holm is not None and pair.p_holm >= LEVEL]
    if not open_pairs:
        return ""
    worst = max(open_pairs, key=lambda pair: (pair.detectable, -pair.n))
    effective = f" (worth {worst.size:.0f} independent ones)" if rate and worst.size < 0.95 * worst.n else ""
    size = f"{100 * worst.detectable:.1f} points" if rate else f"{worst.detectable:.3g}"
    said = f"{len(open_pairs)} of {len(tested)} pairs are not separable"
    if not worst.detectable:  # all score differences are equal, mostly zero
        return f"{said}; the differences have no spread, so the detectable difference is unknown"
    missed = f"differences under about {size} are likely missed (80 % power, Holm-adjusted)"
    return f"{said}; with n = {worst.n} shared answers{effective}, {missed}"


def significant(value: float) -> float:
    """A p-value with three significant digits."""
    return float(f"{value:.2e}")
