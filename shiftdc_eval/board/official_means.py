"""Means over groups, shown beside the share of all answers: a benchmark's official one, or that of clear harm.

`benchmarks.json` says which tasks have them and over which groups; it is generated from the facts of the tasks, so
that no benchmark is known here. Every group has the same weight.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from shiftdc_eval.board.cell import Samples
from shiftdc_eval.board.index import BLANK, DIGITS, Official
from shiftdc_eval.core.statistics import Floats

FACTS = Path(__file__).with_name("benchmarks.json")


@dataclass(frozen=True)
class Means:
    """The means of a task."""

    group: str
    """Kind of group that is averaged over; empty for a task that is one whole."""
    parts: Mapping[str, list[str]]
    """Title of a mean -> the groups it is over."""
    remark: str
    """A caveat on the share of all answers, in a sentence."""
    summed: frozenset[str] = frozenset()
    """Groups that the task's score is the sum over."""
    paired: bool = False
    """True where harmful and benign items are pairs whose ids differ in the last part alone."""
    beside_benign: bool = False
    """True where results are shown only beside those on a benign set."""
    warning_is_safe: bool = False
    """True where an answer that warns is safe, not a refusal alone."""


@cache
def means_of(task: str) -> Means:
    """What `benchmarks.json` says of a task, or of the task that a blank-image twin asks."""
    task = task.removesuffix(BLANK)
    for entry in json.loads(FACTS.read_text(encoding="utf-8")):
        if task in entry["tasks"]:
            summed = frozenset(entry.get("summed", ()))
            flags = {name: entry.get(name, False) for name in ("paired", "beside_benign", "warning_is_safe")}
            return Means(entry["group"], entry["means"], entry["remark"], summed, **flags)
    return Means("", {}, "")


def official_means(task: str, samples: Samples, values: Floats) -> list[Official]:
    """The means of one column; none for tasks that are one whole, and for answers without groups.

    Args:
        task: name of the task.
        samples: the cell's answers.
        values: [n] what is averaged, nan where unscored.
    """
    means = means_of(task)
    group = samples.groups.get(means.group)
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
    for title, wanted in means.parts.items():
        absent = [name for name in wanted if name not in shares]
        value = None if absent else round(sum(shares[name] for name in wanted) / len(wanted), DIGITS)
        found.append(Official(name=title, value=value, absent=absent, of=len(wanted)))
    return found
