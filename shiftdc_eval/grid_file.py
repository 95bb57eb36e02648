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
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shiftdc_eval.errors import ConfigError


class Entry(BaseModel):
    """Base of everything in a grid file: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelEntry(Entry):
    """One model. Everything that decides how it is loaded; loaded once for all its cells."""

    pretrained: str
    """Hub id, folder or bundled model."""
    revision: str | None = None
    """Branch, tag or commit."""
    dtype: str = "auto"
    """Compute dtype."""
    device: str = "auto"
    """Device."""
    device_map: str | None = None
    """`auto` shards over devices."""
    attn_implementation: str | None = None
    """Attention kernel."""
    trust_remote_code: bool = False
    """Run code that comes with the model."""


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

    models: list[ModelEntry] = Field(min_length=1)
    defenses: list[DefenseEntry] = Field(min_length=1)
    tasks: list[str] = Field(min_length=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    defaults: CellSettings = CellSettings()
    overrides: list[Override] = []

    @field_validator("models", "defenses", mode="before")
    @classmethod
    def _names_are_enough(cls, value: Any, info: Any) -> Any:
        key = "pretrained" if info.field_name == "models" else "name"
        return (
            [{key: entry} if isinstance(entry, str) else entry for entry in value]
            if isinstance(value, list)
            else value
        )

    def cells(self) -> Iterator[Cell]:
        """Every cell, model by model, so that each model is loaded once."""
        for model in self.models:
            for defense in self.defenses:
                for seed in self.seeds:
                    for task in self.tasks:
                        yield Cell(model, defense, task, seed, self._settings(model, defense, task, seed))

    def _settings(self, model: ModelEntry, defense: DefenseEntry, task: str, seed: int) -> CellSettings:
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
        self, model: ModelEntry, defense: DefenseEntry, task: str, seed: int, settings: CellSettings
    ) -> None:
        self.model, self.defense, self.task, self.seed, self.settings = model, defense, task, seed, settings

    def description(self) -> dict[str, Any]:
        """Everything that decides the cell's answers and marks, JSON-ready."""
        settings = self.settings.model_dump()
        for name in ("batch_size", "num_gpus"):
            del settings[name]
        return {
            "model": {k: v for k, v in self.model.model_dump().items() if k not in ("device", "device_map")},
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
        settings = ",".join(f"{name}={value}" for name, value in sorted(self.defense.settings.items()))
        return f"{self.defense.name}({settings})" if settings else self.defense.name

    @property
    def command(self) -> str:
        """The command that answers this cell alone; empty where a value cannot stand in `--model_args`."""
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
        if any("," in text or text != text.strip() for text in (*texts.values(), *generation.values())):
            return ""
        words = ["shiftdc-eval", "run", "--model", "shiftdc_vlm", "--model_args", _pairs(texts)]
        words += ["--tasks", self.task]
        if self.settings.limit is not None:
            words += ["--limit", str(self.settings.limit)]
        if generation:
            words += ["--gen_kwargs", _pairs(generation)]
        return shlex.join(words)

    @property
    def label(self) -> str:
        """One line for people."""
        seed = f" seed {self.seed}" if self.seed else ""
        return f"{self.model.pretrained} | {self.defense_label} | {self.task}{seed}"


def read_grid(path: Path) -> Grid:
    """Read a yaml or toml grid file.

    Raises:
        ConfigError: no such file, not yaml or toml, or a wrong entry; names file, line and entry.
    """
    if not path.is_file():
        raise ConfigError(f"no grid file at {path}")
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    try:
        return Grid.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        loc = [part for part in first["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
        line = _toml_line(text, loc) if path.suffix == ".toml" else _line(text, loc)
        where = f"{path}, line {line}" if line else str(path)
        entry = ".".join(map(str, loc)) or "the file"
        raise ConfigError(f"{where}: {entry}: {first['msg']}") from error


def _line(text: str, loc: list[Any]) -> int | None:
    """Line of the node that a path of keys and indices leads to; of the deepest one that exists."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    line = 1 if node is None else node.start_mark.line + 1
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _toml_line(text: str, loc: list[Any]) -> int | None:
    """As `_line`; the parser of TOML tells no places, so the lines are looked through for the keys."""
    lines = text.splitlines()
    line, begin, end, key = None, 0, len(lines), ""
    for part in loc:
        if isinstance(part, int):
            heads = [number for number, one in enumerate(lines) if re.match(rf"\s*\[\[{key}\]\]", one)]
            if part >= len(heads):
                continue  # an inline list: its entries stand on or below the line of its key
            begin = heads[part]
            end = next((n for n in range(begin + 1, len(lines)) if lines[n].startswith("[")), len(lines))
        else:
            key = re.escape(part)
            own = rf"\s*\[*{key}\s*[=\].]|.*[{{,\[]\s*{key}\s*="
            found = next((n for n in range(begin, end) if re.match(own, lines[n])), None)
            if found is None:
                break
            begin = found
            if lines[found].startswith(f"[{part}"):
                end = next((n for n in range(found + 1, len(lines)) if lines[n].startswith("[")), len(lines))
        line = begin + 1
    return line


def _pairs(texts: Mapping[str, str]) -> str:
    return ",".join(f"{name}={text}" for name, text in texts.items())


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(text).name if text.startswith(("/", ".")) else text).strip(
        "_"
    )
