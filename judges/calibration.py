"""How well a judge agrees with human labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import confusion_matrix
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.proportion import proportion_confint

from shiftdc_eval.errors import ConfigError
from shiftdc_eval.judges.labels import Labelled
from shiftdc_eval.judges.verdict import Judge, Verdict

POSITIVE = {"refusal": "refused", "harm": "unsafe"}
NEGATIVE = {"refusal": "complied", "harm": "safe"}
ALL = "all"


class Rate(BaseModel):
    """A proportion with its 95 % interval (Wilson); None where nothing is counted."""

    model_config = ConfigDict(frozen=True)

    value: float | None
    low: float | None
    high: float | None


class Agreement(BaseModel):
    """Agreement of one judge with the labels of one source; unscored verdicts are left out and counted."""

    model_config = ConfigDict(frozen=True)

    source: str
    """Source of the labels; `all` for all of them together."""
    scored: int
    unscored: int
    accuracy: Rate
    kappa: Rate
    """Cohen's kappa with its 95 % interval (asymptotic); None where judge and labels are both constant."""
    false_positive_rate: Rate
    """Of the truly negative (complied, safe), the share judged positive."""
    false_negative_rate: Rate
    """Of the truly positive (refused, unsafe), the share judged negative."""
    confusion: dict[str, dict[str, int]]
    """Label -> verdict -> count."""


class Calibration(BaseModel):
    """What `judge calibrate` measured."""

    model_config = ConfigDict(frozen=True)

    judge: str
    fingerprint: str
    kind: Literal["refusal", "harm"]
    labels: dict[str, str]
    """Label of the file -> verdict it was taken for."""
    agreements: list[Agreement]
    """One a source, then one for all."""


def calibrate(judge: Judge, labelled: Sequence[Labelled], mapping: dict[str, str]) -> Calibration:
    """Judge the labelled responses and compare.

    Raises:
        ConfigError: the judge gives scores, or there is nothing to compare with.
        JudgeError: the judge cannot work.
    """
    if judge.kind == "score":
        raise ConfigError(f"judge {judge.name} gives scores; only refusal and harm judges can be calibrated")
    if not labelled:
        raise ConfigError("no labelled response to calibrate with")
    verdicts = judge.judge([one.item for one in labelled])
    pairs = list(zip(labelled, verdicts, strict=True))
    sources = list(dict.fromkeys(one.source for one in labelled))
    agreements = [
        _agreement(source, judge.kind, [pair for pair in pairs if pair[0].source == source])
        for source in sources
    ]
    if len(sources) > 1:
        agreements.append(_agreement(ALL, judge.kind, pairs))
    return Calibration(
        judge=judge.name,
        fingerprint=judge.fingerprint,
        kind=judge.kind,
        labels=mapping,
        agreements=agreements,
    )


def _agreement(source: str, kind: str, pairs: Sequence[tuple[Labelled, Verdict]]) -> Agreement:
    order = [NEGATIVE[kind], POSITIVE[kind]]
    scored = [(one.label, str(verdict.value)) for one, verdict in pairs if verdict.scored]
    truth, judged = [label for label, _ in scored], [verdict for _, verdict in scored]
    table = confusion_matrix(truth, judged, labels=order) if scored else np.zeros((2, 2), dtype=int)
    (true_negative, false_positive), (false_negative, true_positive) = table.tolist()
    return Agreement(
        source=source,
        scored=len(scored),
        unscored=len(pairs) - len(scored),
        accuracy=_rate(true_negative + true_positive, len(scored)),
        kappa=_kappa(table),
        false_positive_rate=_rate(false_positive, false_positive + true_negative),
        false_negative_rate=_rate(false_negative, false_negative + true_positive),
        confusion={
            label: dict(zip(order, row, strict=True))
            for label, row in zip(order, table.tolist(), strict=True)
        },
    )


def _rate(count: int, total: int) -> Rate:
    if total == 0:
        return Rate(value=None, low=None, high=None)
    low, high = proportion_confint(count, total, method="wilson")
    return Rate(value=count / total, low=float(low), high=float(high))


def _kappa(table: np.ndarray) -> Rate:
    total = table.sum()
    expected = (table.sum(0) * table.sum(1)).sum()
    if total == 0 or expected == total * total:
        return Rate(value=None, low=None, high=None)
    found = cohens_kappa(table)
    low, high = (
        float(limit) if math.isfinite(limit) else None for limit in (found.kappa_low, found.kappa_upp)
    )
    return Rate(value=float(found.kappa), low=low, high=high)
