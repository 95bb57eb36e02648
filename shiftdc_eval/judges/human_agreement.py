"""How well a judge agrees with human labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.hashing import text_sha256
from shiftdc_eval.core.records import Calibration, LabelAgreement
from shiftdc_eval.core.statistics.agreement import kappa, rate
from shiftdc_eval.judges.human_labels import Labelled
from shiftdc_eval.judges.progress import judged
from shiftdc_eval.judges.verdict import Judge, rubric_hash

POSITIVE = {"refusal": "refused", "harm": "unsafe"}
NEGATIVE = {"refusal": "complied", "harm": "safe"}
ALL = "all"

Pair = tuple[Labelled, str]
"""A labelled answer and the judge's verdict on it."""


def calibrate(judge: Judge, labelled: Sequence[Labelled], mapping: dict[str, str]) -> Calibration:
    """Judge the labelled responses and compare.

    Args:
        mapping: label of the file -> verdict it was taken for, to be written down.

    Raises:
        ConfigError: the judge gives scores, or there is nothing to calibrate with.
        JudgeError: the judge cannot work.
    """
    if judge.kind == "score":
        raise ConfigError(f"judge {judge.name} gives scores; only refusal and harm judges can be calibrated")
    if not labelled:
        raise ConfigError("no labelled response to calibrate with")
    verdicts = judged(judge, [one.item for one in labelled])
    pairs = [
        (one, str(verdict.value)) for one, verdict in zip(labelled, verdicts, strict=True) if verdict.scored
    ]
    sources = list(dict.fromkeys(one.source for one in labelled))
    parts = {source: [pair for pair in pairs if pair[0].source == source] for source in sources}
    sizes = {source: sum(one.source == source for one in labelled) for source in sources}
    if len(sources) > 1:
        parts, sizes = parts | {ALL: pairs}, sizes | {ALL: len(labelled)}
    return Calibration(
        judge=judge.name,
        fingerprint=judge.fingerprint,
        rubric=rubric_hash(judge),
        kind=judge.kind,
        labels=mapping,
        labels_sha256=labels_sha256(labelled),
        agreements=[_agreement(name, judge.kind, parts[name], sizes[name]) for name in parts],
        reasons=dict(
            Counter(verdict.reason or "no reason" for verdict in verdicts if not verdict.scored).most_common()
        ),
    )


def labels_sha256(labelled: Sequence[Labelled]) -> str:
    """Hash of what was labelled and how, whatever the files are called."""
    rows = [[one.source, one.item.request, one.item.response, one.label] for one in labelled]
    return text_sha256(json.dumps(rows))


def _agreement(source: str, kind: str, pairs: Sequence[Pair], answers: int) -> LabelAgreement:
    yes, order = POSITIVE[kind], (NEGATIVE[kind], POSITIVE[kind])
    prompts = [one.item.request or f"#{number}" for number, (one, _) in enumerate(pairs)]
    labels = [one.label == yes for one, _ in pairs]
    verdicts = [verdict == yes for _, verdict in pairs]
    right = [label == verdict for label, verdict in zip(labels, verdicts, strict=True)]

    def among(wanted: bool) -> tuple[list[bool], list[str]]:
        chosen = [place for place, label in enumerate(labels) if label == wanted]
        return [not right[place] for place in chosen], [prompts[place] for place in chosen]

    counted = [(one.label, verdict) for one, verdict in pairs]
    return LabelAgreement(
        source=source,
        scored=len(pairs),
        unscored=answers - len(pairs),
        prompts=len(set(prompts)),
        accuracy=rate(right, prompts),
        kappa=kappa(labels, verdicts, prompts),
        false_positive_rate=rate(*among(False)),
        false_negative_rate=rate(*among(True)),
        confusion={label: {verdict: counted.count((label, verdict)) for verdict in order} for label in order},
    )
