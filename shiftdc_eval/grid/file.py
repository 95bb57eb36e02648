"""The grid file: models x defenses x tasks x seeds, checked before anything is loaded.

models: [toy]
defenses:
  - none
  - shiftdc
  - {name: shiftdc, alpha: 0.5, ablation: half strength}
tasks: [toy_figstep, toy_mme]
seeds: [0]
defaults: {batch_size: 8, limit: 100, gen_kwargs: {max_new_tokens: 64}}
overrides:
  - when: {task: toy_mme, defense: shiftdc}
    set: {batch_size: 4}
include_path: my_tasks

`include_path` is a folder with yaml files of tasks, or a list of folders, relative to the grid file. A task may also
be a line `folder:path=DIR,kind=benign,prompt=text` (see `tasks/folder/settings.py`), `path` relative to it too.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.model_spec import SERVER_CHOICES, VLLM_SETTINGS, ModelArguments, served
from shiftdc_eval.core.validation import nearest
from shiftdc_eval.grid import lines as grid_lines
from shiftdc_eval.plugin.arguments import written_pairs
from shiftdc_eval.tasks.folder.settings import PREFIX, as_yaml, read_line


class Entry(BaseModel):
    """Base of everything in a grid file: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DefenseEntry(BaseModel):
    """One defense with its settings (checked by the defense itself)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    """Name in the registry."""
    ablation: str = ""
    """Why its cells are shown as ablations and never rank."""

    @property
    def settings(self) -> dict[str, Any]:
        """The defense's own settings."""
        return dict(self.model_extra or {})


class CellSettings(Entry):
    """How a cell is run."""

    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Requests answered together."""
    limit: int | None = Field(default=None, ge=1)
    """Only the first items of the task."""
    gen_kwargs: dict[str, bool | int | float | str] = Field(default_factory=dict)
    """Generation settings that replace the task's."""
    system_prompt: str = ""
    """System prompt of every chat."""
    num_gpus: float = Field(default=0, ge=0)
    """GPUs a cell takes, for --ray."""


class CellChange(Entry):
    """Settings to change; those left out stay."""

    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    limit: int | None = Field(default=None, ge=1)
    gen_kwargs: dict[str, bool | int | float | str] | None = None
    system_prompt: str | None = None
    num_gpus: float | None = Field(default=None, ge=0)


class When(Entry):
    """Which cells an override is for; what is left out matches all."""

    model: str | None = None
    defense: str | None = None
    task: str | None = None
    seed: int | None = None


class Override(Entry):
    """Settings for some cells; later overrides win."""

    when: When
    set: CellChange


class Grid(Entry):
    """A whole grid file."""

    models: list[ModelArguments] = Field(min_length=1)
    defenses: list[DefenseEntry] = Field(min_length=1)
    tasks: list[str] = Field(min_length=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    defaults: CellSettings = CellSettings()
    overrides: list[Override] = []
    include_path: list[str] = []
    """Folders with yaml files of tasks; once read, absolute, and with the yaml text of each task `folder:...`."""

    @field_validator("include_path", mode="before")
    @classmethod
    def _one_folder_is_enough(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("models", "defenses", mode="before")
    @classmethod
    def _names_are_enough(cls, value: Any, info: Any) -> Any:
        key = "pretrained" if info.field_name == "models" else "name"
        if not isinstance(value, list):
            return value
        entries = [{key: entry} if isinstance(entry, str) else entry for entry in value]
        if key == "name":
            return entries
        try:
            return [served(entry) if isinstance(entry, dict) else entry for entry in entries]
        except ConfigError as error:
            raise ValueError(str(error)) from None

    def cells(self) -> Iterator[Cell]:
        """Every cell, model by model, so that each model is loaded once."""
        for model in self.models:
            for defense in self.defenses:
                for seed in self.seeds:
                    for task in self.tasks:
                        settings = self._settings(model, defense, task, seed)
                        yield Cell(model, defense, task, seed, settings, tuple(self.include_path))

    def values(self, name: str) -> list[str | int]:
        """The values that an override's `when` may name."""
        found: dict[str, list[str | int]] = {
            "model": [model.pretrained for model in self.models],
            "defense": [defense.name for defense in self.defenses],
            "task": [*self.tasks],
            "seed": [*self.seeds],
        }
        return list(dict.fromkeys(found[name]))

    def _settings(self, model: ModelArguments, defense: DefenseEntry, task: str, seed: int) -> CellSettings:
        here = {"model": model.pretrained, "defense": defense.name, "task": task, "seed": seed}
        settings = self.defaults.model_dump()
        for override in self.overrides:
            wanted = override.when.model_dump(exclude_none=True)
            if all(here[name] == value for name, value in wanted.items()):
                settings |= override.set.model_dump(exclude_none=True)
        return CellSettings(**settings)


class Cell:
    """One cell of a grid: what is run, and where its results stand below the output folder."""

    def __init__(
        self,
        model: ModelArguments,
        defense: DefenseEntry,
        task: str,
        seed: int,
        settings: CellSettings,
        include_path: tuple[str, ...] = (),
    ) -> None:
        self.model, self.defense, self.task, self.seed, self.settings = model, defense, task, seed, settings
        self.include_path = include_path

    def description(self) -> dict[str, Any]:
        """Everything that can change the cell's answers or labels, JSON-ready."""
        settings = self.settings.model_dump()
        for name in ("batch_size", "num_gpus"):
            del settings[name]
        model = self.model.model_dump(exclude={"device", "device_map", *SERVER_CHOICES})
        if self.model.engine == "auto":
            del model["engine"]  # cells made before engines could be named keep their folder
        elif self.model.engine == "transformers":
            model["engine"] = "plain"  # its name when such cells were first made: they keep their folder too
        for name in (*VLLM_SETTINGS, "base_url"):
            if model[name] is None:
                del model[name]
        return {
            "model": model,
            "defense": self.defense.model_dump(),
            "task": self.task,
            "seed": self.seed,
            "settings": settings,
        }

    @property
    def digest(self) -> str:
        """Hash of the description without the task: tasks of one configuration share a folder."""
        return hashlib.sha256(
            json.dumps({**self.description(), "task": None}, sort_keys=True, default=str).encode()
        ).hexdigest()

    @property
    def folder(self) -> Path:
        """Folder below the grid's output folder: model, defense, task; readable and unique."""
        model = _slug(self.model.pretrained)
        return Path(model) / f"{_slug(self.defense.name)}-{self.digest[:8]}" / _slug(self.task)

    @property
    def defense_label(self) -> str:
        """The defense with its settings."""
        settings = dict(sorted(self.defense.settings.items()))
        return f"{self.defense.name}({_pairs(settings)})" if settings else self.defense.name

    @property
    def command(self) -> str:
        """The `shiftdc-eval run` command that reproduces this cell; empty if `--gen_kwargs` or `--include_path`
        cannot express it."""
        model = {name: value for name, value in self.model.model_dump(exclude_defaults=True).items()}
        given = {
            **model,
            "defense": self.defense.name,
            **self.defense.settings,
            "ablation": self.defense.ablation,
            "system_prompt": self.settings.system_prompt,
            "seed": self.seed or "",
            "batch_size": self.settings.batch_size,
        }
        texts = {name: str(value) for name, value in given.items() if value not in ("", None)}
        generation = {name: str(value) for name, value in self.settings.gen_kwargs.items()}
        if any("," in text or text != text.strip() for text in generation.values()):
            return ""
        if len(self.include_path) > 1 or any("\n" in one for one in self.include_path):
            return ""
        words = ["shiftdc-eval", "run", "--model", "shiftdc_vlm", "--model_args", written_pairs(texts)]
        words += ["--tasks", self.task]
        if self.include_path:
            words += ["--include_path", self.include_path[0]]
        if self.settings.limit is not None:
            words += ["--limit", str(self.settings.limit)]
        if generation:
            words += ["--gen_kwargs", _pairs(generation)]
        return shlex.join(words)

    @property
    def model_label(self) -> str:
        """The model id with its non-default loading options."""
        settings = self.model.model_dump(exclude_defaults=True, exclude={"pretrained"})
        return f"{self.model.pretrained}({_pairs(settings)})" if settings else self.model.pretrained

    @property
    def label(self) -> str:
        """One-line label for output."""
        seed = f" seed {self.seed}" if self.seed else ""
        return f"{self.model_label} | {self.defense_label} | {self.task}{seed}"


def read_grid(path: Path, include_path: Sequence[Path] = ()) -> Grid:
    """Read a yaml or toml grid file.

    Args:
        path: the file.
        include_path: folders with yaml files of tasks, beside those that the file names.

    Raises:
        ConfigError: no such file, not yaml or toml, or a wrong entry; names file, line and entry.
    """
    if not path.is_file():
        raise ConfigError(f"no grid file at {path}")
    try:
        text = path.read_text(encoding="utf-8")
        is_toml = path.suffix == ".toml"
        content: Any = tomllib.loads(text) if is_toml else yaml.safe_load(text)
        twice = None if is_toml else grid_lines.repeated_key(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if twice:
        raise ConfigError(f"{path}, line {twice[1]}: {twice[0]} appears twice; only one would count")
    try:
        grid = Grid.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(_wrong_entries(path, error))) from error
    grid = _with_own_tasks(path, grid, include_path)
    for number, override in enumerate(grid.overrides):
        for name, value in override.when.model_dump(exclude_none=True).items():
            if value not in (there := grid.values(name)):
                where = place(path, ["overrides", number, "when", name])
                raise ConfigError(f"{where}: {value!r} is none of {', '.join(map(str, there))}")
    return grid


def _wrong_entries(path: Path, error: ValidationError) -> Iterator[str]:
    """Each wrong entry in a line; an unknown key with the nearest one that may stand there."""
    inside: Mapping[Any, type[BaseModel]] = {
        "models": ModelArguments, "defaults": CellSettings, "when": When, "set": CellChange, "overrides": Override
    }  # fmt: skip
    for one in error.errors():
        loc = [part for part in one["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
        said = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            known = next((inside[part] for part in reversed(loc[:-1]) if part in inside), Grid).model_fields
            said = f"there is no such key here{nearest(str(loc[-1]), known)}"
            if len(loc) == 1 and loc[0] in CellSettings.model_fields:
                said += f"; write it below defaults: {{{loc[0]}: ...}}"
        yield f"{place(path, loc)}: {said}"


def _with_own_tasks(path: Path, grid: Grid, more: Sequence[Path]) -> Grid:
    """The grid with absolute task folders; a task `folder:...` becomes a name, and its yaml text joins the folders."""
    include, tasks = [], []
    given = [
        (path.parent, Path(one), place(path, ["include_path", n])) for n, one in enumerate(grid.include_path)
    ]
    for base, one, where in [*given, *((Path(), one, "--include-path") for one in more)]:
        folder = (base / one.expanduser()).resolve()
        if not folder.is_dir():
            raise ConfigError(f"{where}: no folder {folder}")
        include.append(str(folder))
    for number, task in enumerate(grid.tasks):
        if task.startswith(PREFIX):
            try:
                task, settings = read_line(task, path.parent)
            except ConfigError as error:
                raise ConfigError(f"{place(path, ['tasks', number])}: {error}") from error
            include.append(as_yaml(task, settings))
        tasks.append(task)
    return grid.model_copy(update={"include_path": include, "tasks": tasks})


def place(path: Path, loc: list[Any]) -> str:
    """File, line and key path of an entry, for error messages."""
    text = path.read_text(encoding="utf-8")
    line = grid_lines.toml_line(text, loc) if path.suffix == ".toml" else grid_lines.yaml_line(text, loc)
    return f"{path}{f', line {line}' if line else ''}: {'.'.join(map(str, loc)) or 'the file'}"


def _pairs(texts: Mapping[str, object]) -> str:
    return ",".join(f"{name}={text}" for name, text in texts.items())


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(text).name if text.startswith(("/", ".")) else text).strip(
        "_"
    )
