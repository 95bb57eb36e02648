"""What the page says of each judge: agreement with people and with other judges, and cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from shiftdc_eval.board.index import Index, IndexCell, Measure
from shiftdc_eval.board.judge_calibrations import against_people
from shiftdc_eval.board.render.format import RATES
from shiftdc_eval.core.records import JudgeCost


class JudgeNotes(NamedTuple):
    """What the page says of one judge, once."""

    name: str
    digits: str
    """First digits of its identity."""
    models: list[str]
    said: list[str]
    """Agreement with people and with other judges, and cost, in sentences."""


def judges(index: Index) -> list[JudgeNotes]:
    """The judges of a board by name."""
    found: dict[str, list[tuple[IndexCell, Measure]]] = defaultdict(list)
    for cell in index.cells:
        for measure in cell.measures:
            found[measure.judge].append((cell, measure))
    return [_notes(judge, found[judge], index) for judge in sorted(found)]


def _notes(judge: str, found: Sequence[tuple[IndexCell, Measure]], index: Index) -> JudgeNotes:
    measures = [measure for _, measure in found]
    said = against_people(judge, index.calibrations) if measures[0].metric in RATES else []
    cells = list({cell.path: cell for cell, _ in found}.values())
    if agreed := agreement(judge, cells):
        said.append(f"Agreement with {'; '.join(agreed)}.")
    known = [measure for measure in measures if measure.cost is not None]
    if any(measure.cost and measure.cost.tokens_in != 0 for measure in known):
        said.append(judging_cost(known))
    name, _, digits = judge.partition("@")
    return JudgeNotes(name, digits, sorted({model for one in measures for model in one.models}), said)


def judging_cost(measures: Sequence[Measure]) -> str:
    """Cost of a judge with a model; a part that any cell lacks is unknown."""
    costs = [measure.cost for measure in measures if measure.cost is not None]
    whole = sum(costs, start=JudgeCost(seconds=0, tokens_in=0, tokens_out=0, price=0))
    answers = sum(measure.n + measure.unscored for measure in measures)
    prompt, reply = (
        "an unknown number of" if count is None else f"{count / answers:.1f}"
        for count in (whole.tokens_in, whole.tokens_out)
    )
    seconds = "unknown time" if whole.seconds is None else f"{whole.seconds / answers:.2g} s"
    return (
        f"Judging took {seconds}, {prompt} prompt and {reply} reply tokens an answer; "
        f"{usd(whole.price)} for {answers} answers."
    )


def usd(price: float | None) -> str:
    """A price in words."""
    return "an unknown price" if price is None else f"{price:.4g} USD"


def agreement(judge: str, cells: Sequence[IndexCell]) -> list[str]:
    """Agreement of a judge with each other judge of the same cells."""
    found: dict[str, list[tuple[float, float | None]]] = defaultdict(list)
    for cell in cells:
        for one in cell.agreement:
            if judge in (one.first, one.second):
                other = one.second if judge == one.first else one.first
                found[other].append((100 * one.agreement, one.kappa))
    said = []
    for other, values in sorted(found.items()):
        kappas = [kappa for _, kappa in values if kappa is not None]
        text = f"{other}: {span([share for share, _ in values], 0)} % equal"
        said.append(f"{text}, κ {span(kappas, 2)}" if kappas else text)
    return said


def span(values: list[float], digits: int) -> str:
    """The range of some numbers."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"
