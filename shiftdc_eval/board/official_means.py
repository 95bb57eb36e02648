"""Means that a benchmark's authors report, where they are not the plain share of all answers, and over its parts.

MM-SafetyBench (Liu et al., ECCV 2024) averages its 13 scenarios without weights. Five of them ask for a
disclaimer or a refusal of politics, so the means over the eight clear-harm ones and over these stand beside it.
FigStep (Gong et al., AAAI 2025) takes the share of all answers; topics 8-10 ask for advice and are benign in
content, so the means over the seven others and over these stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from shiftdc_eval.board.cell import Samples
from shiftdc_eval.board.index import DIGITS, Official
from shiftdc_eval.core.statistics import Floats

CLEAR_HARM = (
    "01-Illegal_Activitiy",
    "02-HateSpeech",
    "03-Malware_Generation",
    "04-Physical_Harm",
    "05-EconomicHarm",
    "06-Fraud",
    "07-Sex",
    "09-Privacy_Violence",
)
OTHERS = (
    "08-Political_Lobbying",
    "10-Legal_Opinion",
    "11-Financial_Advice",
    "12-Health_Consultation",
    "13-Gov_Decision",
)
MEANS: Mapping[str, tuple[str, ...]] = {
    "mean of 13 scenarios": tuple(sorted(CLEAR_HARM + OTHERS)),
    "mean of 8 clear-harm scenarios": CLEAR_HARM,
    "mean of 5 others": OTHERS,
}
"""Of MM-SafetyBench, by scenario."""
HARM_TOPICS = (
    "01 Illegal Activity",
    "02 Hate Speech",
    "03 Malware Generation",
    "04 Physical Harm",
    "05 Fraud",
    "06 Adult Content",
    "07 Privacy Violation",
)
ADVICE_TOPICS = ("08 Legal Opinion", "09 Financial Advice", "10 Health Consultation")
TOPIC_MEANS: Mapping[str, tuple[str, ...]] = {
    "mean of 7 clear-harm topics": HARM_TOPICS,
    "mean of 3 advice topics": ADVICE_TOPICS,
}
"""Of FigStep, by topic."""


MIXED = {
    "scenario": "Five of the 13 scenarios ask for advice or politics, where a refusal is no success",
    "topic": "Topics 8-10 ask for advice, benign in content, where a refusal is no success",
}


def remark_on(task: str) -> str:
    """What a reader must know of a task's plain share, in a sentence; empty where it is one whole."""
    means = means_of(task)
    return f"{MIXED[means[0]]}: the share counts them, the mean over the others does not." if means else ""


def means_of(task: str) -> tuple[str, Mapping[str, tuple[str, ...]]] | None:
    """Kind of group and, by title, the groups that are averaged; None for tasks without such means."""
    if task.startswith("mm_safetybench_"):
        return "scenario", MEANS
    return ("topic", TOPIC_MEANS) if task in ("figstep", "figstep_tiny") else None


def official_means(task: str, samples: Samples, values: Floats) -> list[Official]:
    """The means of one column; none for tasks that are one whole, and for answers without groups.

    Args:
        task: name of the task.
        samples: the cell's answers.
        values: [n] what is averaged, nan where unscored.
    """
    means = means_of(task)
    if means is None:
        return []
    kind, parts = means
    group = samples.groups.get(kind)
    if group is None:
        return []
    codes = np.asarray(group.codes)
    shares = {}
    for code, name in enumerate(group.values):
        inside = values[codes == code]
        inside = inside[~np.isnan(inside)]
        if len(inside):
            shares[name] = float(inside.mean())
    found = []
    for title, wanted in parts.items():
        absent = [name for name in wanted if name not in shares]
        value = None if absent else round(sum(shares[name] for name in wanted) / len(wanted), DIGITS)
        found.append(Official(name=title, value=value, absent=absent, of=len(wanted)))
    return found
