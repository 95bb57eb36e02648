"""What a section says of its judge: agreement with people and with other judges, and cost."""

from __future__ import annotations

from collections.abc import Sequence

from shiftdc_eval.board.index import Index, IndexCell, Measure, Metric
from shiftdc_eval.board.judge_calibrations import against_people
from shiftdc_eval.board.render.format import RATES
from shiftdc_eval.core.records import JudgeCost


def judged(
    judge: str, metric: Metric, cells: Sequence[IndexCell], measures: Sequence[Measure], index: Index
) -> list[str]:
    """Facts about a section's judge, in sentences."""
    said = against_people(judge, index.calibrations) if metric in RATES else []
    if agreed := agreement(judge, cells):
        said.append(f"Agreement with {'; '.join(agreed)}.")
    known = [(measure.cost, measure) for measure in measures if measure.cost is not None]
    if any(cost.tokens_in != 0 for cost, _ in known):
        said.append(judging_cost([cost for cost, _ in known], [measure for _, measure in known]))
    return said


def judging_cost(costs: list[JudgeCost], measures: list[Measure]) -> str:
    """What a judge with a model took; each part is left open where it is not known of every cell."""
    whole = sum(costs, start=JudgeCost(seconds=0, tokens_in=0, tokens_out=0, price=0))
    answers = sum(measure.n + measure.unscored for measure in measures)
    tokens = [
        "an unknown number of" if count is None else f"{count / answers:.1f}"
        for count in (whole.tokens_in, whole.tokens_out)
    ]
    seconds = "unknown time" if whole.seconds is None else f"{whole.seconds / answers:.2g} s"
    return (
        f"Judging took {seconds}, {tokens[0]} prompt and {tokens[1]} reply tokens an answer; "
        f"{usd(whole.price)} for {answers} answers."
    )


def usd(price: float | None) -> str:
    """A price in words."""
    return "an unknown price" if price is None else f"{price:.4g} USD"


def agreement(judge: str, cells: Sequence[IndexCell]) -> list[str]:
    """How far a judge agrees with each other judge of the same cells."""
    found: dict[str, list[tuple[float, float | None]]] = {}
    for cell in cells:
        for one in cell.agreement:
            if judge in (one.first, one.second):
                other = one.second if judge == one.first else one.first
                found.setdefault(other, []).append((one.agreement, one.kappa))
    said = []
    for other, values in sorted(found.items()):
        shares = [share for share, _ in values]
        kappas = [kappa for _, kappa in values if kappa is not None]
        text = f"{other}: {span([100 * share for share in shares], 0)} % equal"
        said.append(f"{text}, κ {span(kappas, 2)}" if kappas else text)
    return said


def span(values: list[float], digits: int) -> str:
    """The range of some numbers."""
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"
