"""Cross-fitted linear probes: fitted on some questions, tested on the others, whatever the condition.

A probe is a ridge regression on class indicators (for two classes: a linear discriminant). Its penalty is the
mean squared norm of the centred activations it is fitted on: a direction counts fully once it carries more
than one n-th of their variance. It follows from the data and is not tuned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.linear_model import Ridge

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.statistics.weighted import Floats, Ints

FOLDS = 5
MINIMUM = 10
"""Questions of each class that a probe needs: two a fold."""


def folds(questions: Sequence[str], classes: Sequence[str], what: str) -> Ints:
    """Fold of each item; items of one question share it, and every class is spread over all folds.

    Args:
        questions: `[n]` question of each item.
        classes: `[n]` class of each item.
        what: name of the probe, for the error.

    Raises:
        DataError: a class with too few questions; names it.
    """
    by_class: dict[str, set[str]] = {label: set() for label in sorted(set(classes))}
    for question, label in zip(questions, classes, strict=True):
        by_class[label].add(question)
    for label, members in by_class.items():
        if len(members) < MINIMUM:
            raise DataError(
                f"the {what} probe needs at least {MINIMUM} questions of each class, found {len(members)} of "
                f"{label!r}; record more items (--items) or more tasks"
            )
    if len(by_class) < 2:
        raise DataError(f"the {what} probe needs two classes, found only {', '.join(by_class) or 'none'}")
    fold: dict[str, int] = {}
    for members in by_class.values():
        fresh = sorted(members - fold.keys(), key=lambda question: hashlib.sha256(question.encode()).digest())
        fold |= {question: (len(fold) + rank) % FOLDS for rank, question in enumerate(fresh)}
    return np.array([fold[question] for question in questions])


def indicators(numbers: Ints) -> Floats:
    """Class indicators, +1 and -1, `[n, classes]`, from the number of each item's class."""
    return np.where(numbers[:, None] == np.arange(numbers.max() + 1), 1.0, -1.0).astype(np.float32)


def cross_fit(
    fitted_on: Floats, targets: Floats, fold: Ints, tested_on: Mapping[str, Floats]
) -> dict[str, Floats]:
    """Scores of every item by the probe that was fitted without its question.

    Args:
        fitted_on: `[n, hidden]`, float32.
        targets: `[n, t]`, each column a regression of its own.
        fold: `[n]`.
        tested_on: name -> `[n, hidden]`: the same items under other conditions.

    Returns:
        Name -> `[n, t]`.
    """
    centre = fitted_on.mean(0)  # float32 is exact enough only near zero
    scores = {name: np.empty_like(targets) for name in tested_on}
    for one in np.unique(fold):
        inside = fold == one
        x = fitted_on[~inside] - centre
        penalty = float(((x - x.mean(0)) ** 2).sum(1).mean())
        probe = Ridge(max(penalty, 1e-30), solver="cholesky").fit(x, targets[~inside])
        for name, activations in tested_on.items():
            scores[name][inside] = probe.predict(activations[inside] - centre).reshape(-1, targets.shape[1])
    return scores
