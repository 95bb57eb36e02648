"""How well a detector or a gate tells a harmful task from the benign ones measured with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from shiftdc_eval.board.cell import Cell
from shiftdc_eval.board.index import DIGITS, Detection
from shiftdc_eval.board.metrics import Answers
from shiftdc_eval.core import statistics
from shiftdc_eval.core.hashing import content_hash
from shiftdc_eval.core.records import BENIGN_ITEM, BLANK_IMAGES, Rate
from shiftdc_eval.core.statistics import Bools, Estimate, Floats, Ints

ABOVE = ("refused_by_detector", "sent_on")
"""Flags of answers whose score is above the threshold."""
TEMPLATE = "refused_by_detector"
"""Flag of answers that are a detector's fixed refusal."""

Scored = tuple[Floats, Bools, Ints]
"""[n] scores, whether each is above the threshold, and the question of each."""


def detections(cells: Sequence[Cell]) -> dict[str, Detection]:
    """By path, for every cell with scores; harmful ones against their own benign items, else against benign ones of the
    same model, defense and seed.
    """
    systems: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell.samples.detector is not None:
            key = cell.key()
            del key["task"]
            systems[content_hash(key)].append(cell)
    return {
        cell.path: _detection(cell, twins(cell, family)) for family in systems.values() for cell in family
    }


def twins(cell: Cell, family: Sequence[Cell]) -> list[Cell]:
    """The benign cells whose names share the most first words with a harmful task's; all where none shares any."""
    words = cell.task.name.split("_")
    shared: dict[int, list[Cell]] = defaultdict(list)
    for other in family if not cell.task.benign and cell.task.utility is not True else ():
        if other.task.benign and is_blank(other) == is_blank(cell):
            pairs = zip(words, other.task.name.split("_"), strict=False)
            same = [one == two for one, two in pairs]
            shared[(*same, False).index(False)].append(other)
    return shared[max(shared)] if shared else []


def is_blank(cell: Cell) -> bool:
    """True for a task that was asked with blank images."""
    return any(note.startswith(BLANK_IMAGES) for note in cell.task.notes)


def _detection(cell: Cell, benign: Sequence[Cell]) -> Detection:
    scores, above, questions = scored(cell)
    found = Detection(above=_rate(statistics.proportion(above, questions)), answers=len(scores))
    own = scored(cell, benign=True)
    parts = [own] if len(own[0]) else [scored(one) for one in benign]
    if not parts:
        return found
    benign = [cell] if len(own[0]) else benign
    starts = np.cumsum([0, *(len(one.samples) for one in benign)])
    others, alarms = (np.concatenate([part[at] for part in parts]) for at in (0, 1))
    apart = np.concatenate([part[2] + start for part, start in zip(parts, starts, strict=False)])
    auroc, auprc = statistics.areas(scores, others, questions, apart)
    return found.model_copy(
        update={
            "against": sorted(one.task.name for one in benign),
            "benign": len(others),
            "false_alarms": _rate(statistics.proportion(alarms, apart)),
            "auroc": _rate(auroc),
            "auprc": _rate(auprc),
        }
    )


def scored(cell: Cell, *, benign: bool = False) -> Scored:
    """The answers that have a score, without the benign items of a harmful task; with `benign` those alone."""
    samples = cell.samples
    scores = np.array([np.nan if one is None else one for one in samples.detector or []])
    rows = [row for flag in ABOVE for row in samples.flags.get(flag, [])]
    above = np.isin(np.arange(len(samples)), rows)
    known = ~np.isnan(scores)
    known &= np.isin(np.arange(len(samples)), samples.flags.get(BENIGN_ITEM, [])) == benign
    return scores[known], above[known], Answers(cell).questions[known]


def _rate(estimate: Estimate) -> Rate:
    value, low, high = (
        None if np.isnan(one) else round(float(one), DIGITS)
        for one in (estimate.value, estimate.low, estimate.high)
    )
    return Rate(value=value, low=low, high=high)


def answers_by_template(cell: Cell) -> bool:
    """True where a detector refuses by itself; behind a gate the model answers."""
    return cell.samples.detector is not None and "gate" not in cell.defense.settings
