"""Finds problems with the data and the judges of tasks before a model is loaded.

Neither torch nor lmms-eval is imported. Question files are read as a run reads them; images are looked for and
not decoded; tables of the hub are not downloaded, but the hub is asked for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.errors import said_by
from shiftdc_eval.judges.local.model import LocalModel
from shiftdc_eval.judges.registry import JUDGES_VARIABLE, judges_for
from shiftdc_eval.tasks.catalogue import TWINS
from shiftdc_eval.tasks.example import Source, require_unique
from shiftdc_eval.tasks.folder import items as folder_items
from shiftdc_eval.tasks.folder import settings as folder_settings
from shiftdc_eval.tasks.fonts import FREE_MONO_BOLD, find_font
from shiftdc_eval.tasks.hub import NotLoaded, without_tables
from shiftdc_eval.tasks.leakage import separate


def problems(names: Sequence[str], *, limit: int | None = None, judges: Sequence[str] = ()) -> list[str]:
    """Everything that is wrong with these tasks, one line each; empty when nothing is.

    Args:
        names: tasks and groups of ours, and lines `folder:path=...`; other names are left to lmms-eval.
        limit: items that each task is asked for; None: all.
        judges: specs given on the command line; without them those of `SHIFTDC_JUDGES`, else of each task.
    """
    found: list[str] = []
    if judges or setting(JUDGES_VARIABLE):
        found += said_by(lambda: _require_judges(judges))
    for task in dict.fromkeys(task for name in names for task in tasks_of(name)):
        found += said_by(partial(_require_task, task, limit))
    return list(dict.fromkeys(found))


def tasks_of(name: str) -> list[str]:
    """The tasks of a group of ours; any other name as it is."""
    content = _yaml_files().get(name, ("", {}))[1]
    members = content.get("task", name)
    return [name] if isinstance(members, str) else [task for member in members for task in tasks_of(member)]


def _require_judges(chosen: Sequence[str], default: Sequence[str] = ()) -> None:
    for judge in judges_for(default, chosen):
        model = getattr(judge, "model", None)
        if isinstance(model, LocalModel):
            model.require_known()


def _require_task(name: str, limit: int | None) -> None:
    if name.startswith(folder_settings.PREFIX):
        task, settings = folder_settings.read_line(name, Path())
        folder_items.read(task, settings)
        if not setting(JUDGES_VARIABLE):
            _require_judges((), settings.judges)
    elif name in TWINS:
        _require_task(TWINS[name].twin_of, limit)
    elif name == "figstep_benign":
        if setting("SHIFTDC_FONT"):
            find_font(FREE_MONO_BOLD)
    elif name in _yaml_files():
        benchmark, content = _yaml_files()[name]
        settings = content.get("dataset_kwargs", {})
        if (Path(__file__).parent / benchmark / "files.py").is_file():
            files = import_module(f"shiftdc_eval.tasks.{benchmark}.files")
            with suppress(NotLoaded), without_tables():
                source: Source = files.load(name, settings)
                require_unique(source.examples, f"{name} ({source.dataset})")
                kept, _ = separate(source.examples, settings)
                source.require_images([example.id for example in kept[:limit]], name)


@cache
def _yaml_files() -> dict[str, tuple[str, dict[str, Any]]]:
    """Task or group -> its benchmark's folder, and its yaml file."""
    found = {}
    for path in Path(__file__).parent.glob("*/*.yaml"):
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a safe loader
        found[content.get("group") or content["task"]] = path.parent.name, content
    return found


class _Loader(yaml.SafeLoader):
    """Reads `!function NAME` as a text."""


_Loader.add_constructor("!function", _Loader.construct_scalar)  # type: ignore[type-var]
