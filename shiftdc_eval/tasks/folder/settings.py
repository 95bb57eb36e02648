"""Settings of a CSV benchmark, from a yaml file's `dataset_kwargs` or from one line of a grid file.

The line is `folder:path=DIR,kind=benign,prompt=text`: `path` is a CSV file or a folder that holds one, `name`
the task's name (the folder's, if not given), `judge` the spec of a judge; the others are settings as below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from shiftdc_eval.core.entry_points import installed
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.validation import nearest, validated
from shiftdc_eval.judges.installed import GROUP
from shiftdc_eval.judges.language import codes
from shiftdc_eval.judges.registry import JUDGES, parse_spec

PREFIX = "folder:"
CLASS = "shiftdc_eval.tasks.folder.task.FolderTask"
OPTIONAL = ("id", "request", "scenario", "group", "reference")


class FolderSettings(BaseModel):
    """The CSV file, the kind of its items, and its columns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_files: str
    """The CSV file. Image cells are paths relative to its folder."""
    kind: Literal["harmful", "benign", "utility"]
    """Harmful requests, benign ones where a refusal is the failure, or questions with a reference answer."""
    image: str = "image"
    """Column of the image file."""
    prompt: str = "prompt"
    """Column of the text prompt."""
    id: str | None = None
    """Column of the id; without it, the image's path and a hash of the prompt."""
    request: str | None = None
    """Column of the request as judges are shown it; without it, the prompt."""
    scenario: str | None = None
    """Column of the category."""
    group: str | None = None
    """Column that results are split by; without it, the scenario."""
    reference: str | None = None
    """Column of the reference answer."""
    judges: list[str] = Field(default_factory=list)
    """Judge specs; without them, the usual ones of the kind."""
    languages: list[str] | str = Field(default_factory=list)
    """Languages that answers are expected in: codes, or one text of them joined by +."""


def checked(settings: Mapping[str, Any], what: str) -> FolderSettings:
    """The validated settings.

    Args:
        settings: setting -> value.
        what: where they come from, for errors.

    Raises:
        ConfigError: a setting is unknown, missing or wrong.
    """
    for name in settings:
        if name not in FolderSettings.model_fields:
            raise ConfigError(f"{what}: no setting {name!r}{nearest(name, FolderSettings.model_fields)}")
    found = validated(FolderSettings, settings, what=f"{what}:")
    for spec in found.judges:
        require_judge(spec, what)
    codes(found.languages, f"{what}: languages")
    return found


def require_judge(spec: str, what: str) -> None:
    """Refuse a judge that nothing knows, before its settings are needed.

    Raises:
        ConfigError: names the judge and the nearest one.
    """
    name, _ = parse_spec(spec)
    known = [*JUDGES, *installed(GROUP)]
    if name not in known:
        raise ConfigError(
            f"{what}: no judge {name!r}{nearest(name, known)}; `shiftdc-eval judges` lists them"
        )


def read_line(line: str, base: Path) -> tuple[str, FolderSettings]:
    """Task name and settings of a line `folder:path=DIR,...`.

    Args:
        line: the line.
        base: folder that a relative `path` counts from.

    Raises:
        ConfigError: a setting is unknown, missing, wrong or there twice; no CSV file, or several.
    """
    given: dict[str, Any] = {}
    for part in line.removeprefix(PREFIX).split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or not value or name in given:
            problem = "appears twice" if name in given else "is no setting=value"
            raise ConfigError(f"{line}: {part.strip()!r} {problem}")
        given[name] = value
    if "path" not in given:
        raise ConfigError(f"{line}: path= is missing; give a CSV file or the folder that holds one")
    path = (base / Path(given.pop("path")).expanduser()).resolve()
    tables = sorted(path.glob("*.csv")) if path.is_dir() else [path]
    if len(tables) != 1:
        raise ConfigError(f"{line}: {path} holds {len(tables)} CSV files; name the file in path=")
    name = given.pop("name", path.stem if tables == [path] else path.name)
    judges = {"judges": [given.pop("judge")]} if "judge" in given else {}
    if "data_files" in given:
        raise ConfigError(f"{line}: no setting 'data_files'; it is called path here")
    settings = checked({"data_files": str(tables[0]), **given, **judges}, line)
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-") or "folder", settings


def as_yaml(name: str, settings: FolderSettings) -> str:
    """The task as a yaml file for lmms-eval."""
    head = yaml.safe_dump({"task": name}) + f"class: !function {CLASS}\n"
    content = {
        "dataset_path": "csv",  # lmms-eval then takes data_files relative to the yaml file
        "dataset_kwargs": settings.model_dump(exclude_defaults=True),
        "metadata": {"version": 1},
    }
    return head + yaml.safe_dump(content, sort_keys=False)
