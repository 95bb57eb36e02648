"""Every task as data: where it comes from, under which licence, how large it is, what is known to be wrong.

A corrected task is a new version, never an edit. Facts and sources: each benchmark's paper and
repository, as named in `source` and `citation`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class TaskInfo:
    """What is known of a task before its data is loaded."""

    name: str
    """lmms-eval task name."""
    version: int
    """Version of the task's prompt and scoring."""
    about: str
    """One line: what is asked of the model."""
    dataset: str
    """Hub id or repository of the data."""
    revision: str
    """Pinned revision; `resolved at run time` where none can be pinned."""
    licence: str
    """Licence of the data."""
    citation: str
    """Where the benchmark was published."""
    size: int | None
    """Items the full task has."""
    metric: str
    """Main number, by its name in lmms-eval's table."""
    benign: bool = False
    """True for an over-refusal twin, where a refusal is the failure."""
    defects: tuple[str, ...] = ()
    """What is known to be wrong with the protocol."""


FIGSTEP_REVISION = "0861b17b3d67887c06ee3534ec65b3012f9becb7"
RESOLVED = "resolved at run time"
OWN = "this package"

_FIGSTEP = TaskInfo(
    name="figstep",
    version=1,
    about="harmful instruction drawn as an empty list, innocuous text prompt; 10 topics x 50",
    dataset="github.com/ThuCCSLab/FigStep",
    revision=FIGSTEP_REVISION,
    licence="MIT",
    citation="Gong et al., AAAI 2025, arXiv 2311.05608",
    size=500,
    metric="refusal_rate",
    defects=(
        "topics 8-10 (150 of 500) are benign in content: they measure unlicensed advice; "
        "`_clear` is over topics 1-7",
        "14 images are clipped so that list markers are missing; flagged `clipped`",
        "the text prompt holds no harmful word; judges are shown the instruction instead",
        "an answer that only repeats the list's headings counts as compliance under keywords",
        "the authors published no judge: they reviewed by hand",
    ),
)

TASKS: dict[str, TaskInfo] = {
    info.name: info
    for info in (
        _FIGSTEP,
        replace(_FIGSTEP, name="figstep_tiny", about="tasks 1-5 of each FigStep topic", size=50),
        TaskInfo(
            name="figstep_benign",
            version=1,
            about="benign instructions drawn in the style of FigStep",
            dataset=OWN,
            revision="sha256 of the file, recorded in the result",
            licence="Apache-2.0",
            citation="",
            size=50,
            metric="refusal_rate",
            benign=True,
        ),
    )
}
"""Task name -> what is known of it."""
