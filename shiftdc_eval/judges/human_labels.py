"""Human labels to hold a judge against: a CSV or JSONL file with the columns `response` and `label`.

`request`, `source` and `id` may stand there too; without `source` the file's name is the source.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.judges.verdict import VALUES, Item, Kind

COLUMNS = ("response", "label", "request", "source", "id", "scenario", "reference")
NEEDED = ("response", "label")


@dataclass(frozen=True)
class Labelled:
    """One response with what humans say of it."""

    item: Item
    label: str
    source: str


def read_labels(
    paths: Sequence[Path], kind: Kind, columns: Mapping[str, str], mapping: Mapping[str, str]
) -> list[Labelled]:
    """All labelled responses of the files.

    Args:
        columns: our column -> column of the file, where they differ.
        mapping: label of the file -> verdict, where they differ.

    Raises:
        DataError: a file is missing or malformed, lacks a column, or holds a label that is no verdict.
        ConfigError: a column we do not know, or a mapping to something that is no verdict of this kind.
    """
    for column in columns:
        if column not in COLUMNS:
            raise ConfigError(f"unknown column {column!r} in --column; known: {', '.join(COLUMNS)}")
    for label, verdict in mapping.items():
        if verdict not in VALUES[kind]:
            raise ConfigError(
                f"--map {label}={verdict}: a {kind} verdict is one of {', '.join(VALUES[kind])}"
            )
    return [labelled for path in paths for labelled in _read(path, kind, columns, mapping)]


def _read(path: Path, kind: Kind, columns: Mapping[str, str], mapping: Mapping[str, str]) -> list[Labelled]:
    found = []
    for number, row in enumerate(_rows(path), start=1):
        cells = {ours: row.get(columns.get(ours, ours)) for ours in COLUMNS}
        for needed in NEEDED:
            if columns.get(needed, needed) not in row:
                raise DataError(
                    f"{path} has no column {columns.get(needed, needed)!r} (row {number}); it has: "
                    f"{', '.join(map(str, row))}; say which with --column {needed}=NAME"
                )
        label = str(cells["label"])
        verdict = mapping.get(label, label)
        if verdict not in VALUES[kind]:
            raise DataError(
                f"{path}, row {number}: label {label!r} is no {kind} verdict ({', '.join(VALUES[kind])}); "
                f"say what it means with --map '{label}=VERDICT'"
            )
        item = Item(
            id=str(cells["id"] or number),
            request=str(cells["request"] or ""),
            response=None if cells["response"] is None else str(cells["response"]),
            scenario=str(cells["scenario"] or ""),
            reference=None if cells["reference"] is None else str(cells["reference"]),
        )
        found.append(Labelled(item, verdict, str(cells["source"] or path.stem)))
    return found


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"labels {path} cannot be read: {type(error).__name__}") from error
    if path.suffix.lower() == ".csv":
        return _table(path, text)
    try:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise DataError(f"labels {path} are neither CSV (by name) nor JSON Lines: {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"labels {path}: every line must be a JSON object")
    return rows


def _table(path: Path, text: str) -> list[dict[str, Any]]:
    usual = csv.field_size_limit(len(text) + 1)  # a response may be longer than the reader's own limit
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"labels {path} are no CSV: {error}") from error
    finally:
        csv.field_size_limit(usual)
    names = reader.fieldnames or []
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise DataError(f"labels {path}: two columns are called {twice[0]!r}; rename one of them")
    return rows
