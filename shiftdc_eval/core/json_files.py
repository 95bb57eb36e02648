"""Reading and writing JSON files: one canonical form, errors that name file and field."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.files import atomic_write, reading

Model = TypeVar("Model", bound=BaseModel)


OPEN_LEVELS = 3
"""Nested levels written over several lines; deeper values, the columns of a cell, take one line each."""


def canonical(value: Any) -> str:
    """A JSON value as text: sorted keys, ASCII, LF, one line for each column."""
    return _write(value, 0) + "\n"


def _write(value: Any, level: int) -> str:
    inner, outer = "\n" + " " * (level + 1), "\n" + " " * level
    if level < OPEN_LEVELS and isinstance(value, dict) and value:
        lines = [f"{json.dumps(key)}: {_write(value[key], level + 1)}" for key in sorted(value)]
        return "{" + inner + ("," + inner).join(lines) + outer + "}"
    if level < OPEN_LEVELS and isinstance(value, list) and value and isinstance(value[0], dict):
        lines = [_write(entry, level + 1) for entry in value]
        return "[" + inner + ("," + inner).join(lines) + outer + "]"
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def record_text(record: BaseModel) -> str:
    """A record in canonical form, fields that hold their default left out."""
    return canonical(record.model_dump(mode="json", exclude_defaults=True))


def parse(text: str, model: type[Model], source: object) -> Model:
    """A record from JSON text.

    Raises:
        RecordError: names the source and each field that is wrong; a newer schema version says so.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        newer = _newer_version(text, model)
        raise RecordError(f"{source}: {newer or '; '.join(explain(error))}") from None


def _newer_version(text: str, model: type[BaseModel]) -> str:
    """What to say of a record whose schema version is above the one that the model has; else empty."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    for name, field in model.model_fields.items():
        known = get_args(field.annotation)
        given = content.get(name) if isinstance(content, dict) else None
        if name.endswith("_version") and known and isinstance(given, int) and given > known[0]:
            return (
                f"{name}: {given}: written by a newer version of shiftdc-eval, this one reads {known[0]}; "
                "update shiftdc-eval"
            )
    return ""


def parse_object(text: str, source: object) -> dict[str, Any]:
    """A JSON object of another program's making.

    Raises:
        RecordError: it is none, or nested too deeply to be read.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{source}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise RecordError(f"{source}: expected an object, found {type(content).__name__}")
    return content


def explain(error: ValidationError) -> list[str]:
    """What is wrong, field by field; at most five."""
    lines = []
    for entry in error.errors(include_url=False, include_context=False)[:5]:
        field = ".".join(map(str, entry["loc"]))
        message = entry["msg"].removeprefix("Value error, ")
        given = entry["input"]
        shown = f" (got {str(given)[:60]!r})" if isinstance(given, str | int | float) and field else ""
        lines.append(f"{field}: {message}{shown}" if field else message)
    return lines


def write_text(path: Path, text: str) -> None:
    """Write a file of the board whole or not at all, readable by everyone: boards are published."""
    atomic_write(path, text, mode=0o644)


def read_text(path: Path) -> str:
    """A text file.

    Raises:
        RecordError: it cannot be read or is not UTF-8.
    """
    try:
        with reading(path, RecordError):
            return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: cannot be read: not UTF-8: {error}") from error


def first_difference(ours: str, theirs: str) -> str:
    """Where two texts first differ, in words."""
    pairs: Iterable[tuple[str, str]] = zip(ours.split("\n"), theirs.split("\n"), strict=False)
    for number, (left, right) in enumerate(pairs, 1):
        if left != right:
            return f"line {number}: expected {left[:100]!r}, found {right[:100]!r}"
    return f"expected {len(ours)} characters, found {len(theirs)}"
