"""Keyword lists and rubrics of the user's own: YAML files named by their path."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.json_files import explain

Model = TypeVar("Model", bound=BaseModel)


def is_path(name: str) -> bool:
    """Whether a setting names a file, not one of ours: it has a folder or ends in `.yaml` or `.yml`."""
    return "/" in name or Path(name).suffix in (".yaml", ".yml")


@dataclass(frozen=True)
class UserFile:
    """A file, read once, so that the content used is the content hashed."""

    path: Path
    sha256: str
    """Hash of its bytes: its part of the judge's identity."""
    data: dict[str, Any]

    @property
    def stem(self) -> str:
        """Its name as it may stand in a column's name."""
        return re.sub(r"[^a-z0-9_.-]", "_", self.path.stem.lower())

    def validated(self, model: type[Model], **more: object) -> Model:
        """The content as a record.

        Raises:
            ConfigError: names the file and each field that is wrong.
        """
        try:
            return model.model_validate({**self.data, **more})
        except ValidationError as error:
            raise ConfigError(f"{self.path}: {'; '.join(explain(error))}") from None


def read_user_file(name: str) -> UserFile:
    """A YAML file by its path, from the working directory on.

    Raises:
        ConfigError: it is not there, cannot be read, or holds no mapping.
    """
    path = Path(name).expanduser()
    try:
        content = path.read_bytes()
        data = yaml.safe_load(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror} (looked for in {Path.cwd()})") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: expected `field: value` lines, found {type(data).__name__} (docs/judges.md)"
        )
    return UserFile(
        path, hashlib.sha256(content).hexdigest(), {str(key): value for key, value in data.items()}
    )
