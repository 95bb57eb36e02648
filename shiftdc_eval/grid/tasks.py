"""What is known of a grid's tasks before their data is loaded: that they exist, their versions, pinned data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.grid.file import place
from shiftdc_eval.plugin.arguments import nearest
from shiftdc_eval.tasks.catalogue import TASKS


def require_tasks(path: Path, names: Sequence[str]) -> None:
    """Refuse task names that neither we nor lmms-eval know.

    Raises:
        ConfigError: names the task and its line in the grid file.
    """
    for number, name in enumerate(names):
        if name not in TASKS and name not in _index():
            raise ConfigError(
                f"{place(path, ['tasks', number])}: no task {name!r}{nearest(name, _index())}; "
                "`shiftdc-eval tasks` shows ours, `lmms-eval --tasks list` all"
            )


def task_facts(name: str) -> dict[str, dict[str, str]]:
    """Version and pinned data revision of a task, or of each task of a group, as they stand now.

    A revision is as in the catalogue, so where it is found at run time only it says so; empty for tasks that
    are not ours. Nothing is returned for an unknown name.
    """
    if name in TASKS:
        return {name: {"version": str(TASKS[name].version), "revision": TASKS[name].revision}}
    if name not in _index():
        return {}
    found: dict[str, dict[str, str]] = {}
    for task in _tasks_of(name):
        found |= task_facts(task) if task != name else {name: {"version": _version(name), "revision": ""}}
    return found


def _tasks_of(listed: Any) -> Iterator[str]:
    """Names of the tasks that an entry of lmms-eval's index, or of a group's yaml, stands for."""
    if isinstance(listed, list):
        for one in listed:
            yield from _tasks_of(one)
    elif isinstance(listed, dict):
        yield from _tasks_of(listed["task"])
    elif (entry := _index().get(listed)) and entry["type"] in ("group", "tag"):
        yield from _tasks_of(entry["task"] if entry["task"] != -1 else _config(listed)["task"])
    else:
        yield listed


def _version(name: str) -> str:
    metadata = _config(name).get("metadata")
    return str(metadata.get("version", "")) if isinstance(metadata, dict) else ""


def _config(name: str) -> dict[str, Any]:
    """A yaml of lmms-eval with what it includes; its functions are not imported."""
    from lmms_eval.utils import load_yaml_config

    found: dict[str, Any] = load_yaml_config(_index()[name]["yaml_path"], mode="simple")
    return found


def _index() -> dict[str, Any]:

    found: dict[str, Any] = task_manager().task_index
    return found


_manager: list[Any] = []


def task_manager() -> Any:
    """lmms-eval's task index, made once: it takes seconds."""
    if not _manager:
        import lmms_eval.models  # noqa: F401 (makes plugins known)
        from lmms_eval.tasks import TaskManager

        from shiftdc_eval.plugin.manifests import manifests

        manifests()
        _manager.append(TaskManager(verbosity="WARNING"))
    return _manager[0]
