"""Checks of what a user gives: one line that names the value and the nearest known word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.provenance import redact

T = TypeVar("T", bound=BaseModel)


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """A hint at the nearest known word, or nothing where none is as like as this (0 to 1)."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=likeness)
    return f"; did you mean {close[0]}?" if close else ""


def validated(model: type[T], values: Mapping[str, Any], *, what: str) -> T:
    """Build a model from user input; the error is one line that names the argument.

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise ConfigError(explained(error, what)[0]) from error


def explained(error: ValidationError, what: str) -> list[str]:
    """Each wrong value in a line that names the argument."""
    lines = []
    for one in error.errors():
        name = ".".join(str(part) for part in one["loc"][:1])
        if one["type"] == "missing":
            lines.append(f"{what} {name}= is missing")
            continue
        said = redact(f"{what} {name}={one['input']}") if name else what
        lines.append(f"{said}: {one['msg'].removeprefix('Value error, ')}")
    return lines
