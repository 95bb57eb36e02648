"""Task metadata that needs no data: names, versions and pinned data revisions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.files import atomic_write
from shiftdc_eval.core.hashing import text_sha256
from shiftdc_eval.core.paths import cache_dir
from shiftdc_eval.core.validation import nearest
from shiftdc_eval.grid.file import place
from shiftdc_eval.tasks.catalogue import KNOWN, TASKS, TWINS
from shiftdc_eval.tasks.folder.items import read
from shiftdc_eval.tasks.folder.settings import CLASS, checked


def require_tasks(path: Path, names: Sequence[str], include_path: Sequence[str] = ()) -> None:
    """Reject task names that are unknown to this package, lmms-eval and `include_path`.

    Raises:
        ConfigError: names the task and its line in the grid file; or a task folder cannot be read.
        DataError: a CSV benchmark is not whole.
    """
    if include_path:
        task_manager(include_path)
    for number, name in enumerate(names):
        if name not in TASKS and name not in _index():
            raise ConfigError(
                f"{place(path, ['tasks', number])}: no task {name!r}{nearest(name, _index())}; "
                "`shiftdc-eval tasks` shows ours, `lmms-eval --tasks list` all"
            )
        task_facts(name)  # a CSV benchmark that is not whole must not be found out after hours


def task_facts(name: str, include_path: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Version and pinned data revision of a task, or of each task of a group, as they stand now.

    A revision is as in the catalogue, so where it is found at run time only it says so; that of a CSV benchmark
    is the hash of its files, and other tasks have none. Nothing is returned for an unknown name.
    """
    if include_path:
        task_manager(include_path)
    if info := TASKS.get(name) or TWINS.get(name):
        return {name: {"version": str(info.version), "revision": info.revision}}
    if name not in _index():
        return {}
    found: dict[str, dict[str, str]] = {}
    for task in _tasks_of(name):
        found |= task_facts(task) if task != name else {name: _facts(name)}
    return found


def leaf_tasks(name: str) -> list[str]:
    """The tasks of a group; a task as it is."""
    return [name] if name in KNOWN else list(_tasks_of(name))


def _tasks_of(listed: Any) -> Iterator[str]:
    """Leaf tasks of an entry in lmms-eval's index or in a group's yaml."""
    if isinstance(listed, list):
        for one in listed:
            yield from _tasks_of(one)
    elif isinstance(listed, dict):
        yield from _tasks_of(listed["task"])
    elif (entry := _index().get(listed)) and entry["type"] in ("group", "tag"):
        yield from _tasks_of(entry["task"] if entry["task"] != -1 else task_config(listed)["task"])
    else:
        yield listed


def _facts(name: str) -> dict[str, str]:
    config = task_config(name)
    metadata, revision = config.get("metadata"), ""
    if getattr(config.get("class"), "value", "") == CLASS:  # not imported: a node of the yaml file
        revision = read(name, checked(config.get("dataset_kwargs") or {}, f"task {name}")).revision
    version = str(metadata.get("version", "")) if isinstance(metadata, dict) else ""
    return {"version": version, "revision": revision}


def task_config(name: str) -> dict[str, Any]:
    """A task's yaml with its includes resolved and its functions not imported."""
    from lmms_eval.utils import load_yaml_config

    found: dict[str, Any] = load_yaml_config(_index()[name]["yaml_path"], mode="simple")
    return found


def _index() -> dict[str, Any]:

    found: dict[str, Any] = task_manager().task_index
    return found


_manager: list[Any] = []


def task_manager(include_path: Sequence[str] = ()) -> Any:
    """lmms-eval's task index, made once: it takes seconds.

    Args:
        include_path: folders whose tasks join it, and texts that are each the yaml file of a task.

    Raises:
        ConfigError: a folder cannot be read, or holds a task whose name is taken.
    """
    if not _manager:
        import lmms_eval.models  # noqa: F401 (makes plugins known)
        from lmms_eval.tasks import TaskManager

        from shiftdc_eval.plugin.manifests import manifests

        manifests()
        _manager.append(TaskManager(verbosity="WARNING"))
    for one in include_path:
        _include(_manager[0], _written(one) if "\n" in one else one)
    return _manager[0]


def _written(text: str) -> str:
    """Folder with a yaml file of this text."""
    folder = cache_dir() / "tasks" / text_sha256(text)[:16]
    atomic_write(folder / "task.yaml", text)
    return str(folder)


def _include(manager: Any, folder: str) -> None:
    """Add a folder to the existing index; lmms-eval reads `--include_path` only when it builds one."""
    try:
        found: dict[str, Any] = manager._get_task_and_group(folder)
    except Exception as error:  # a boundary: lmms-eval raises whatever a wrong yaml file leads to
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{folder}: its yaml files cannot be read: {type(error).__name__}: {reason}"
        ) from error
    for name, entry in found.items():
        known = manager.task_index.get(name, entry)
        if known["yaml_path"] != entry["yaml_path"]:
            raise ConfigError(
                f"{folder}: the name of its task {name!r} is taken by {known['yaml_path']}; give it another one"
            )
    manager._task_index = {**found, **manager.task_index}
    manager._all_tasks = sorted(manager._task_index)
