"""All tasks of this package by name, collected from the `facts.py` of each benchmark's folder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from shiftdc_eval.tasks.info import BLANK, TaskInfo
from shiftdc_eval.tasks.lmms_own.known import LMMS_TASKS

TASKS: dict[str, TaskInfo] = {
    info.name: info
    for path in sorted(Path(__file__).parent.glob("*/facts.py"))
    for info in import_module(f"shiftdc_eval.tasks.{path.parent.name}.facts").TASKS
}
"""Task name -> its facts."""

TWINS: dict[str, TaskInfo] = {
    f"{info.name}{BLANK}": info.blank_twin() for info in TASKS.values() if info.images
}
"""Name of a blank-image twin -> its facts; `tasks.base` makes it of its task by the setting `image: blank`."""

KNOWN: dict[str, TaskInfo] = TASKS | TWINS | LMMS_TASKS
"""All of these, and the tasks of lmms-eval's own that the board takes."""
