"""What is known of a task before its data is loaded: the literal that stands in each benchmark's `facts.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RESOLVED = "at run time"
"""Revision of data that is pinned when it is loaded."""
OWN = "this package"
"""Where data comes from that this package brings or draws."""


@dataclass(frozen=True)
class GroupMeans:
    """Unweighted means over groups of items that are reported beside the share of all answers."""

    group: str
    """Which of an item's groups is averaged over, e.g. `scenario`."""
    parts: Mapping[str, tuple[str, ...]]
    """Title of a mean -> the groups it is over."""
    remark: str
    """Why the share of all answers does not say it all, in one sentence."""


@dataclass(frozen=True)
class TaskInfo:
    """One task. A corrected task is a new version, never an edit."""

    name: str
    """lmms-eval task name."""
    version: int
    """Version of the task's prompt and scoring."""
    about: str
    """One line: what is asked of the model."""
    dataset: str
    """Hub id or repository of the data."""
    revision: str
    """Pinned revision; `at run time` where it is resolved then and recorded."""
    licence: str
    """Licence of the data."""
    citation: str
    """Where the benchmark was published."""
    size: int | None
    """Items the full task has; None where the data or a setting decides."""
    metric: str
    """Main number, by its name in lmms-eval's table."""
    benign: bool = False
    """True for an over-refusal task, where a refusal is the failure."""
    utility: bool = False
    """True where the main number says how good answers are."""
    defects: tuple[str, ...] = ()
    """What is known to be wrong with the protocol."""
    means: GroupMeans | None = None
    """Means over groups; None for a task that is one whole."""
