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

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.statistics.weighted import Floats, Ints

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
        fold |= {question: (len(fold) + rank) % count for rank, question in enumerate(fresh)}
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
    centre = fitted_on.mean(0)  # for float32's sake: each fit is centred on its own items below
    x = fitted_on - centre
    n, hidden = x.shape
    gram = x @ x.T if n <= hidden else None
    names, width = np.unique(fold), targets.shape[1]
    weights = np.empty((hidden, len(names), width), dtype=np.float32)
    duals = np.zeros((n, len(names), width), dtype=np.float32)
    means = np.empty((len(names), hidden), dtype=np.float32)
    aims = np.empty((len(names), width), dtype=np.float32)
    for at, one in enumerate(names):
        outside = np.flatnonzero(fold != one)
        aims[at] = targets[outside].mean(0)
        means[at] = (fold != one).astype(np.float32) @ x / len(outside)
        if gram is not None:
            duals[outside, at] = _dual(gram[np.ix_(outside, outside)], targets[outside] - aims[at])
        else:
            weights[:, at] = _primal(x[outside] - means[at], targets[outside] - aims[at])
    if gram is not None:
        weights = (x.T @ duals.reshape(n, -1)).reshape(weights.shape)
    flat = weights.reshape(hidden, -1)
    offsets = aims - np.einsum("fh,hft->ft", means + centre, weights)
    own = np.searchsorted(names, fold)
    rows = np.arange(n)
    return {
        name: (activations @ flat).reshape(n, len(names), -1)[rows, own] + offsets[own]
        for name, activations in tested_on.items()
    }


def _dual(gram: Floats, aim: Floats) -> Floats:
    rows = gram.mean(0)
    kernel = gram - rows
    kernel -= rows[:, None] - rows.mean()
    return _solve(kernel, aim, penalty=float(np.trace(kernel)) / len(kernel))


def _primal(x: Floats, aim: Floats) -> Floats:
    covariance = x.T @ x
    return _solve(covariance, x.T @ aim, penalty=float(np.trace(covariance)) / len(x))


def _solve(matrix: Floats, right: Floats, penalty: float) -> Floats:
    matrix[np.diag_indices_from(matrix)] += max(penalty, 1e-30)
    factor = scipy.linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
    return np.asarray(scipy.linalg.cho_solve(factor, right.astype(np.float32), check_finite=False))
