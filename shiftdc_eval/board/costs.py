"""Cost of the answers of a cell, and their time relative to answers without a defense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shiftdc_eval.board.cell import Cell
from shiftdc_eval.core.hashing import content_hash
from shiftdc_eval.core.records import Cost

MIN_TIMED = 100
"""Time is compared where at least so many answers are timed: shorter runs mostly measure their warm-up."""


def costs(cell: Cell) -> list[Cost]:
    """Costs of the runs of a cell that recorded any."""
    return [run.cost for run in cell.runs if run.cost is not None and run.cost.samples]


def timed_answers(cell: Cell) -> int:
    """Answers that were timed on their run's hardware."""
    return sum(cost.samples if cost.timed is None else cost.timed for cost in costs(cell))


def seconds_per_answer(cell: Cell) -> float | None:
    """Wall seconds per answer, over the answers that were timed; None when unknown."""
    samples = timed_answers(cell)
    return sum(cost.seconds for cost in costs(cell)) / samples if samples else None


def without_seconds(cell: Cell, known: Cell | None = None) -> Cell:
    """The cell without the seconds of its runs, except the runs of `known`."""
    kept = {run.id for run in known.runs} if known else set()
    runs = list(cell.runs)
    for number, run in enumerate(runs):
        if run.id not in kept and run.cost is not None:
            cost = run.cost.model_copy(update={"seconds": 0.0, "timed": 0})
            runs[number] = run.model_copy(update={"cost": cost})
    return cell.model_copy(update={"runs": runs})


def tokens_per_answer(cell: Cell) -> tuple[float, float] | None:
    """Prompt and generated tokens per answer, over the runs that recorded them; None when unknown."""
    known = costs(cell)
    samples = sum(cost.samples for cost in known)
    if not samples:
        return None
    tokens_in, tokens_out = sum(cost.tokens_in for cost in known), sum(cost.tokens_out for cost in known)
    return round(tokens_in / samples, 1), round(tokens_out / samples, 1)


def price(cell: Cell) -> float | None:
    """USD of the answers; None when any run did not record it. What a run reused counts once."""
    known = costs(cell)
    prices = [cost.price for cost in known if cost.price is not None]
    if not prices or len(prices) != len(cell.runs):
        return None
    return round(sum(prices) / sum(cost.samples for cost in known) * len(cell.samples), 4)


def hardware(cell: Cell) -> str:
    """Hardware of the runs, joined by ` + `."""
    return " + ".join(sorted({run.hardware for run in cell.runs if run.hardware}))


def engine(cell: Cell) -> str:
    """Engines of the runs, joined by ` + `."""
    return " + ".join(sorted({run.engine for run in cell.runs if run.engine}))


@dataclass(frozen=True)
class Relative:
    """Time of a cell relative to `none`."""

    seconds: float
    """Seconds per answer divided by those of `none`."""
    engine: str
    """Engine that answered `none`."""


def relative_times(cells: Sequence[Cell]) -> dict[str, Relative]:
    """Time relative to `none` on the same task, model, dtype, kernel, generation and hardware, by path.

    Small runs have none: they mostly measure their warm-up.
    """
    settings = {}
    baseline: dict[str, Relative] = {}
    cells = [cell for cell in cells if timed_answers(cell) >= MIN_TIMED]
    for cell in cells:
        key = cell.key()
        del key["defense"], key["seed"]
        setting = settings[cell.path] = content_hash([key, hardware(cell)])
        seconds = seconds_per_answer(cell)
        if cell.defense.name == "none" and seconds and hardware(cell):
            baseline.setdefault(setting, Relative(seconds, engine(cell)))
    found: dict[str, Relative] = {}
    for cell in cells:
        seconds, base = seconds_per_answer(cell), baseline.get(settings[cell.path])
        if seconds is not None and base is not None:
            found[cell.path] = Relative(float(f"{seconds / base.seconds:.3g}"), base.engine)
    return found
