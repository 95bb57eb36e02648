"""Cross-fitted linear probes: fitted on some questions, tested on the others, whatever the condition.

A probe is a ridge regression on class indicators (for two classes: a linear discriminant). Its penalty is the
mean squared norm of the centred activations it is fitted on: a direction counts fully once it carries more
than one n-th of their variance. It follows from the data and is not tuned.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import scipy.linalg

from shiftdc_eval.analysis.resampling import Floats, Ints
from shiftdc_eval.errors import DataError

FOLDS = 5
MINIMUM = 10
"""Questions of each class that a probe needs: two a fold."""


def folds(questions: Sequence[str], classes: Sequence[str], what: str, count: int = FOLDS) -> Ints:
    """Fold of each item; items of one question share it, and every class is spread over all folds.

    Args:
        questions: `[n]` question of each item.
        classes: `[n]` class of each item.
        what: name of the probe, for the error.

    Raises:
        DataError: a class with too few questions; names it.
    """
    first: dict[str, str] = {}
    for question, label in zip(questions, classes, strict=True):
        first.setdefault(question, label)
    by_class: dict[str, list[str]] = {label: [] for label in sorted(set(classes))}
    for question, label in first.items():
        by_class[label].append(question)
    for label, members in by_class.items():
        if len(members) < MINIMUM:
            raise DataError(
                f"the {what} probe needs at least {MINIMUM} questions of each class, found {len(members)} of "
                f"{label!r}; record more items (--items) or more tasks"
            )
    if len(by_class) < 2:
        raise DataError(f"the {what} probe needs two classes, found only {', '.join(by_class) or 'none'}")
    fold: dict[str, int] = {}
    start = 0
    for members in by_class.values():
        members.sort(key=lambda question: hashlib.sha256(question.encode("utf-8", "replace")).digest())
        fold |= {question: (start + rank) % count for rank, question in enumerate(members)}
        start += len(members)
    return np.array([fold[question] for question in questions])


def indicators(classes: Sequence[str]) -> tuple[Floats, list[str]]:
    """Class indicators, +1 and -1: one column for two classes (the first sorted is +1), else one a class."""
    names = sorted(set(classes))
    found = np.array([[1.0 if one == name else -1.0 for name in names] for one in classes], dtype=np.float32)
    return (found[:, :1] if len(names) == 2 else found), names


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
    centre = fitted_on.mean(0)  # only for float32's sake: each fit is centred on its own items below
    x = fitted_on - centre
    n, hidden = x.shape
    gram = x @ x.T if n <= hidden else None
    scores = {name: np.empty((n, targets.shape[1]), dtype=np.float32) for name in tested_on}
    for one in np.unique(fold):
        inside, outside = np.flatnonzero(fold == one), np.flatnonzero(fold != one)
        mean, offset = x[outside].mean(0), targets[outside].mean(0)
        aim = targets[outside] - offset
        if gram is not None:
            weights = x[outside].T @ _dual(gram[np.ix_(outside, outside)], aim)
        else:
            weights = _primal(x[outside] - mean, aim)
        for name, activations in tested_on.items():
            scores[name][inside] = (activations[inside] - centre - mean) @ weights + offset
    return scores


def _dual(gram: Floats, aim: Floats) -> Floats:
    rows = gram.mean(0)
    kernel = gram - rows - rows[:, None] + rows.mean()
    return _solve(kernel, aim, penalty=float(np.trace(kernel)) / len(kernel))


def _primal(x: Floats, aim: Floats) -> Floats:
    covariance = x.T @ x
    return _solve(covariance, x.T @ aim, penalty=float(np.trace(covariance)) / len(x))


def _solve(matrix: Floats, right: Floats, penalty: float) -> Floats:
    matrix = matrix.astype(np.float32)
    matrix[np.diag_indices_from(matrix)] += max(penalty, np.finfo(np.float32).tiny * 1e6)
    solved = scipy.linalg.solve(matrix, right.astype(np.float32), assume_a="pos", overwrite_a=True)
    return np.asarray(solved)
