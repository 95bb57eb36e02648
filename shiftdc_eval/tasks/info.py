"""Facts about a task that are known before its data is loaded; each benchmark's `facts.py` holds its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

RESOLVED = "at run time"
"""Revision of data that is pinned when it is loaded."""
BLANK = "_blank"
"""End of the name of a task's blank-image twin."""
OWN = "this package"
"""Source of data that ships with this package or is drawn by it."""


@dataclass(frozen=True)
class GroupMeans:
    """Unweighted means over groups of items, reported beside the share of all answers."""

    group: str
    """Which of an item's groups is averaged over, e.g. `scenario`."""
    parts: Mapping[str, tuple[str, ...]]
    """Title of a mean -> the groups it is over."""
    remark: str
    """Why the share of all answers is not enough, in one sentence."""
    summed: tuple[str, ...] = ()
    """Groups that the task's score is the sum over: without one of them there is no score."""
    paired: bool = False
    """True where harmful and benign items are pairs whose ids differ in the last part alone: refusals are compared."""
    beside_benign: bool = False
    """True where results are shown only beside those on a benign set, which the task itself does not have."""
    warning_is_safe: bool = False
    """True where an answer that warns is safe too: never pooled with tasks where only a refusal is."""


@dataclass(frozen=True)
class TaskInfo:
    """One task. A corrected task is a new version, never an edit."""

    name: str
    """lmms-eval task name."""
    about: str
    """One line: what is asked of the model."""
    dataset: str
    """Hub id or repository of the data."""
    licence: str
    """Licence of the data."""
    size: int | None
    """Items of the full task; None where the data or a setting decides."""
    metric: str
    """Main number, by its name in lmms-eval's table."""
    revision: str = RESOLVED
    """Pinned revision; `at run time` where it is resolved then and recorded."""
    citation: str = ""
    """Where the benchmark was published."""
    version: int = 1
    """Version of the task's prompt and scoring."""
    benign: bool = False
    """True for an over-refusal task, where a refusal is the failure."""
    utility: bool = False
    """True where the main number rates the quality of answers."""
    defects: tuple[str, ...] = ()
    """Known problems of the protocol."""
    means: GroupMeans | None = None
    """Means over groups; None for a task without groups that are averaged."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """Group of items (scenario, topic, subtask) -> its size in the full task; empty where it is not known."""
    images: bool = True
    """False where no request has an image."""
    twin_of: str = ""
    """Of a blank-image twin the task whose requests it asks; else empty."""

    def blank_twin(self) -> TaskInfo:
        """The same requests with `image: blank`: a control, since any image at all changes refusals (2609.26174)."""
        return replace(
            self,
            name=f"{self.name}{BLANK}",
            twin_of=self.name,
            about=f"{self.about}; control: every image is replaced by a grey one of its size",
        )
