"""MME's score: per subtask 100 x accuracy + 100 x paired accuracy, summed over subtasks.

Accuracy is over questions, paired accuracy over images both of whose questions are right. An unscored
answer is left out of the accuracy, and its image out of the paired accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shiftdc_eval.tasks.metrics import NOTHING_SCORED
from shiftdc_eval.tasks.mme import facts

PERCEPTION, COGNITION = tuple(facts.PERCEPTION), tuple(facts.COGNITION)
SUBTASKS = PERCEPTION + COGNITION


@dataclass(frozen=True)
class Answered:
    """One question of an image, and whether the answer is right; None when unscored."""

    subtask: str
    image: str
    right: float | None


def subtask_scores(answers: Sequence[Answered]) -> dict[str, dict[str, Any]]:
    """Accuracy, paired accuracy (both 0 to 1), score (0 to 200) and counts of every subtask present."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted({answer.subtask for answer in answers}):
        rows = [answer for answer in answers if answer.subtask == name]
        rights = [row.right for row in rows if row.right is not None]
        images: dict[str, list[float | None]] = {}
        for row in rows:
            images.setdefault(row.image, []).append(row.right)
        pairs = [pair for pair in images.values() if len(pair) == 2]
        paired = [all(value == 1 for value in pair) for pair in pairs if None not in pair]
        accuracy = sum(rights) / len(rights) if rights else None
        accuracy_plus = sum(paired) / len(paired) if paired else None
        found[name] = {
            "accuracy": NOTHING_SCORED if accuracy is None else accuracy,
            "accuracy_plus": NOTHING_SCORED if accuracy_plus is None else accuracy_plus,
            "score": _score(accuracy, accuracy_plus),
            "questions": len(rows),
            "unscored": len(rows) - len(rights),
            "images_without_twin": len(images) - len(pairs),
        }
    return found


def _score(accuracy: float | None, accuracy_plus: float | None) -> float | str:
    if accuracy is None or accuracy_plus is None:
        return NOTHING_SCORED
    return 100 * (accuracy + accuracy_plus)


def total(scores: Mapping[str, Mapping[str, Any]], subtasks: Sequence[str]) -> float | str:
    """Sum of the scores of these subtasks; `N/A` when one is absent or has no score."""
    values = [scores[name]["score"] if name in scores else NOTHING_SCORED for name in subtasks]
    return NOTHING_SCORED if NOTHING_SCORED in values else float(sum(map(float, values)))
