"""How well a judge agrees with human labels."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.hashing import text_sha256
from shiftdc_eval.core.records import Calibration, LabelAgreement, Rate
from shiftdc_eval.core.statistics import Estimate, kappa, proportion
from shiftdc_eval.core.statistics.intervals import numbered
from shiftdc_eval.judges.human_labels import Labelled
from shiftdc_eval.judges.progress import judged
from shiftdc_eval.judges.verdict import Judge, Verdict, rubric_hash

POSITIVE = {"refusal": "refused", "harm": "unsafe"}
NEGATIVE = {"refusal": "complied", "harm": "safe"}
ALL = "all"
UNKNOWN = Rate(value=None, low=None, high=None)


def calibrate(
    judge: Judge,
    labelled: Sequence[Labelled],
    mapping: dict[str, str],
    *,
    data: str = "",
    sample: Literal["in", "out", ""] = "",
    across_kinds: bool = False,
) -> Calibration:
    """Judge the labelled responses and compare.

    Args:
        mapping: label of the file -> verdict it was taken for, to be written down.
        data: name of the labelled answers.
        sample: whether the judge was made with these labels in view.
        across_kinds: labels of harm stand for verdicts on refusal, or the other way round.

    Raises:
        ConfigError: the judge gives scores, or there is no label to compare with.
        JudgeError: the judge cannot work.
    """
    if judge.kind == "score":
        raise ConfigError(
            f"judge {judge.name} gives scores; only refusal and harm judges are compared with labels"
        )
    if not labelled:
        raise ConfigError("no labelled response to compare with")
    verdicts = judged(judge, [one.item for one in labelled])
    return agreement_of(
        judge, labelled, verdicts, mapping, data=data, sample=sample, across_kinds=across_kinds
    )


def agreement_of(
    judge: Judge,
    labelled: Sequence[Labelled],
    verdicts: Sequence[Verdict],
    mapping: dict[str, str],
    *,
    data: str = "",
    sample: Literal["in", "out", ""] = "",
    across_kinds: bool = False,
) -> Calibration:
    """The record of verdicts that were given already, such as those of a cross-validation; see `calibrate`."""
    if judge.kind == "score":
        raise ConfigError(f"judge {judge.name} gives scores")
    kind = judge.kind
    rows = list(zip(labelled, verdicts, strict=True))

    def split(name: Callable[[Labelled], str]) -> list[LabelAgreement]:
        names = sorted({name(one) for one in labelled} - {""})
        return [_agreement(n, kind, [row for row in rows if name(row[0]) == n]) for n in names]

    agreements = [
        _agreement(source, kind, [row for row in rows if row[0].source == source])
        for source in dict.fromkeys(one.source for one in labelled)
    ]
    if len(agreements) > 1:
        agreements.append(_agreement(ALL, kind, rows))
    unscored = Counter(verdict.reason for verdict in verdicts if not verdict.scored)
    return Calibration(
        judge=judge.name,
        fingerprint=judge.fingerprint,
        rubric=rubric_hash(judge),
        kind=kind,
        labels=mapping,
        labels_sha256=labels_sha256(labelled),
        data=data,
        sample=sample,
        across_kinds=across_kinds,
        agreements=agreements,
        by_model=split(lambda one: one.model),
        by_language=split(lambda one: one.language),
        reasons=dict(unscored.most_common()),
    )


def labels_sha256(labelled: Sequence[Labelled]) -> str:
    """Hash of what was labelled and how, whatever the files are called."""
    rows = [[one.source, one.item.request, one.item.response, one.label] for one in labelled]
    return text_sha256(json.dumps(rows))


def _agreement(source: str, kind: str, rows: Sequence[tuple[Labelled, Verdict]]) -> LabelAgreement:
    pairs = [(one, str(verdict.value)) for one, verdict in rows if verdict.scored]
    yes, order = POSITIVE[kind], (NEGATIVE[kind], POSITIVE[kind])
    prompts = [one.item.request or f"#{number}" for number, (one, _) in enumerate(pairs)]
    clusters = numbered(prompts)
    labels = np.array([one.label == yes for one, _ in pairs], bool)
    verdicts = np.array([verdict == yes for _, verdict in pairs], bool)
    counted = [(one.label, verdict) for one, verdict in pairs]
    one_class = len(np.unique(labels)) < 2  # kappa is 0 or undefined then, whatever is right
    return LabelAgreement(
        source=source,
        scored=len(pairs),
        unscored=len(rows) - len(pairs),
        prompts=len(set(prompts)),
        accuracy=_rate(proportion(labels == verdicts, clusters)),
        kappa=UNKNOWN if one_class else _rate(kappa(labels, verdicts, clusters)),
        false_positive_rate=_rate(proportion(verdicts[~labels], clusters[~labels])),
        false_negative_rate=_rate(proportion(~verdicts[labels], clusters[labels])),
        confusion={label: {verdict: counted.count((label, verdict)) for verdict in order} for label in order},
    )


def _rate(found: Estimate) -> Rate:
    """An estimate as it is recorded: no number in place of nan, and no interval of nothing."""
    value, low, high = (
        one if found.n and math.isfinite(one) else None for one in (found.value, found.low, found.high)
    )
    return Rate(value=value, low=low, high=high)
