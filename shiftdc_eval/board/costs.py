"""What the answers of a cell cost, and how long they took beside those without a defense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shiftdc_eval.board.cell import Cell
from shiftdc_eval.core.hashing import content_hash
from shiftdc_eval.core.records import Cost


def costs(cell: Cell) -> list[Cost]:
    """What the runs of a cell say of their cost."""
    return [run.cost for run in cell.runs if run.cost is not None and run.cost.samples]


def seconds_per_answer(cell: Cell) -> float | None:
    """Wall seconds an answer over the runs that say so, and over the answers made on their run's hardware."""
    known = costs(cell)
    samples = sum(cost.samples if cost.timed is None else cost.timed for cost in known)
    return sum(cost.seconds for cost in known) / samples if samples else None


def without_seconds(cell: Cell, known: Cell | None = None) -> Cell:
    """The cell without the seconds of its runs, those of the runs of `known` excepted."""
    kept = {run.id for run in known.runs} if known else set()
    runs = [
        run
        if run.id in kept or run.cost is None
        else run.model_copy(update={"cost": run.cost.model_copy(update={"seconds": 0.0, "timed": 0})})
        for run in cell.runs
    ]
    return cell.model_copy(update={"runs": runs})


def tokens_per_answer(cell: Cell) -> tuple[float, float] | None:
    """Prompt and generated tokens an answer over the runs that say so."""
    known = costs(cell)
    samples = sum(cost.samples for cost in known)
    if not samples:
        return None
    tokens_in, tokens_out = sum(cost.tokens_in for cost in known), sum(cost.tokens_out for cost in known)
    return round(tokens_in / samples, 1), round(tokens_out / samples, 1)


def price(cell: Cell) -> float | None:
    """Money spent on the answers; None as soon as one run does not say."""
    known = [cost.price for cost in costs(cell)]
    prices = [one for one in known if one is not None]
    return round(sum(prices), 4) if prices and len(prices) == len(cell.runs) else None


def hardware(cell: Cell) -> str:
    """Hardware of the runs; several are joined."""
    return " + ".join(sorted({run.hardware for run in cell.runs if run.hardware}))


def engine(cell: Cell) -> str:
    """Engine of the runs; several are joined."""
    return " + ".join(sorted({run.engine for run in cell.runs if run.engine}))


@dataclass(frozen=True)
class Relative:
    """How long a cell took beside `none`."""

    seconds: float
    """Seconds an answer, those of `none` being 1."""
    engine: str
    """Engine that answered `none`."""


def relative_times(cells: Sequence[Cell]) -> dict[str, Relative]:
    """Time relative to `none` on the same task, model, dtype, kernel, generation and hardware, by path."""

    def setting(cell: Cell) -> str:
        key = cell.key()
        del key["defense"], key["seed"]
        return content_hash([key, hardware(cell)])

    baseline: dict[str, Relative] = {}
    for cell in cells:
        seconds = seconds_per_answer(cell)
        if cell.defense.name == "none" and seconds and hardware(cell):
            baseline.setdefault(setting(cell), Relative(seconds, engine(cell)))
    found: dict[str, Relative] = {}
    for cell in cells:
        seconds, base = seconds_per_answer(cell), baseline.get(setting(cell))
        if seconds is not None and base is not None:
            found[cell.path] = Relative(float(f"{seconds / base.seconds:.3g}"), base.engine)
    return found
