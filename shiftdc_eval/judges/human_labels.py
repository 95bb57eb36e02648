"""Human labels to compare a judge with: CSV, TSV, JSON Lines or JSON files with the columns `response` and `label`.

JSON is an array of rows, columns of equal length (`{"response": [...], "label": [...]}`), or lists of rows by a key
(HarmBench's validation sets; the key is then the column `key`). A label may come from several annotators, as a list
in one cell or as several columns (`--column label=human_0+human_1+human_2`): the majority counts, an answer without
one is left out. `request`, `context`, `image` (a path from the file's folder), `source`, `id`, `model` and `language`
may stand there too; without `source` the file's name is the source.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.judges.verdict import VALUES, Item, Kind

COLUMNS = (
    "response", "label", "request", "source", "id", "scenario", "reference", "context", "image", "model", "language"
)  # fmt: skip
NEEDED = ("response", "label")
REST = "*"
"""In a mapping: every label that the mapping does not name."""
_ABOUT = {
    "harm": re.compile(r"(?<![a-z])(?:un|not[ _-]?)?safe(?![a-z])|harm(?!bench)|jailb|toxic", re.IGNORECASE),
    "refusal": re.compile(r"refus|compl(?:y|i)", re.IGNORECASE),
}


@dataclass(frozen=True)
class Labelled:
    """One response with what humans say of it."""

    item: Item
    label: str
    source: str
    model: str = ""
    """The model that answered; empty: not said."""
    language: str = ""
    """Language of the response; empty: not said."""


def read_labels(
    paths: Sequence[Path],
    kind: Kind,
    columns: Mapping[str, str],
    mapping: Mapping[str, str],
    *,
    across_kinds: bool = False,
) -> list[Labelled]:
    """All labelled responses of the files.

    Args:
        columns: our column -> column of the file, where they differ.
        mapping: label of the file -> verdict, where they differ; an empty verdict leaves the label's answers out,
            the label `*` is every label that is not named.
        across_kinds: take labels of harm for a refusal judge, or labels of refusal for a harm judge.

    Raises:
        DataError: a file is missing or malformed, lacks a column, or holds a label that is no verdict.
        ConfigError: a file is named twice, a column or label of the arguments is in no file, a mapping leads to no
            verdict of this kind, or the labels are about the other kind.
    """
    for column in columns:
        if column not in COLUMNS:
            raise ConfigError(f"unknown column {column!r} in --column; known: {', '.join(COLUMNS)}")
    named = {ours: columns.get(ours, ours) for ours in dict.fromkeys([*NEEDED, *columns])}
    for theirs, count in Counter(named.values()).items():
        if count > 1:
            both = " and ".join(ours for ours, name in named.items() if name == theirs)
            raise ConfigError(f"column {theirs!r} is named for {both}; they are two columns of the file")
    for label, verdict in mapping.items():
        if verdict and verdict not in VALUES[kind]:
            raise ConfigError(
                f"--map {label}={verdict}: a {kind} verdict is one of {', '.join(VALUES[kind])}"
            )
    _require_different(paths)
    tables = {path: _rows(path) for path in paths}
    for path, rows in tables.items():
        _require_columns(path, rows, columns)
    parts = columns.get("label", "label").split("+")
    votes = {
        path: [_votes(row, parts, path, n) for n, row in _numbered(rows)] for path, rows in tables.items()
    }
    seen = {vote for of_file in votes.values() for of_row in of_file for vote in of_row}
    for label in mapping:
        if label != REST and label not in seen:
            raise ConfigError(f"--map {label}=...: no answer has this label; {_nearest(label, seen)}")
    if not across_kinds:
        _require_kind(kind, sorted(seen), parts)
    return [
        labelled
        for path, rows in tables.items()
        for (number, row), of_row in zip(_numbered(rows), votes[path], strict=True)
        if (labelled := _labelled(path, number, row, of_row, kind, columns, mapping))
    ]


def _numbered(rows: Sequence[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    return list(enumerate(rows, start=1))


def _require_different(paths: Sequence[Path]) -> None:
    names: dict[str, Path] = {}
    contents: dict[str, Path] = {}
    for path in paths:
        try:
            content = file_sha256(path)
        except OSError as error:
            raise DataError(f"labels {path} cannot be read: {type(error).__name__}") from error
        if path.stem in names:
            raise ConfigError(
                f"{names[path.stem]} and {path} have one name, which names their source; name a file once, or "
                "rename one of them"
            )
        if content in contents:
            raise ConfigError(f"{contents[content]} and {path} hold the same labels; name one of them")
        names[path.stem] = contents[content] = path


def _require_columns(path: Path, rows: Sequence[dict[str, Any]], columns: Mapping[str, str]) -> None:
    there = {name for row in rows for name in row}
    for ours in dict.fromkeys([*NEEDED, *columns]):
        for theirs in columns.get(ours, ours).split("+" if ours == "label" else "\0"):
            if theirs not in there:
                raise DataError(
                    f"{path} has no column {theirs!r}; {_nearest(theirs, there)}; say which with --column {ours}=NAME"
                )


def _nearest(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return (f"nearest: {near[0]!r}; " if near else "") + f"there are: {', '.join(sorted(known))[:300]}"


def _require_kind(kind: Kind, labels: Sequence[str], columns: Sequence[str]) -> None:
    other = "harm" if kind == "refusal" else "refusal"
    # a taxonomy of both, such as MSTS's, may name refusals among its safe classes
    both = any(_ABOUT[kind].search(label) for label in labels)
    for word in [*labels, *columns]:
        if _ABOUT[other].search(word) and not _ABOUT[kind].search(word) and not both:
            raise ConfigError(
                f"the labels ({word!r}) are about {other} and this judge about {kind}, which is another question: an "
                "answer can be safe without a refusal; say --across-kinds to compare them all the same"
            )


def _votes(row: Mapping[str, Any], parts: Sequence[str], path: Path, number: int) -> list[str]:
    """What the annotators of a row say; those who say nothing are left out."""
    found = [row.get(part) for part in parts]
    cells = [cell for one in found for cell in (one if isinstance(one, list) else [one])]
    if wrong := next((cell for cell in cells if isinstance(cell, dict | list)), None):
        raise DataError(
            f"{path}, row {number}: a label is a text or a list of texts, not {str(wrong)[:60]!r}"
        )
    if len(parts) == 1 and cells == [None]:
        raise DataError(
            f"{path}, row {number}: no {parts[0]!r}; give every answer a label, or leave the row out"
        )
    return [str(cell) for cell in cells if cell is not None and (cell != "" or len(parts) == 1)]


def _labelled(
    path: Path,
    number: int,
    row: Mapping[str, Any],
    votes: Sequence[str],
    kind: Kind,
    columns: Mapping[str, str],
    mapping: Mapping[str, str],
) -> Labelled | None:
    verdicts = [mapping.get(vote, mapping.get(REST, vote)) for vote in votes]
    for vote, verdict in zip(votes, verdicts, strict=True):
        if verdict and verdict not in VALUES[kind]:
            raise DataError(
                f"{path}, row {number}: label {vote!r} is no {kind} verdict ({', '.join(VALUES[kind])}); "
                f"say what it means with --map '{vote}=VERDICT', or leave it out with --map '{vote}='"
            )
    ranked = Counter(verdicts).most_common()
    if not ranked or not ranked[0][0] or 2 * ranked[0][1] <= len(verdicts):
        return None

    def text(column: str) -> str | None:
        cell = row.get(columns.get(column, column))
        if isinstance(cell, dict | list):
            raise DataError(
                f"{path}, row {number}: the {column} is a {'list' if isinstance(cell, list) else 'JSON object'}, "
                "not a text; name a column of texts"
            )
        return None if cell is None else str(cell)

    item = Item(
        id=text("id") or str(number),
        request=text("request") or "",
        response=text("response"),
        scenario=text("scenario") or "",
        reference=text("reference"),
        context=text("context") or "",
        image=_image(path.parent / name) if (name := text("image")) else None,
    )
    more = {"model": text("model") or "", "language": text("language") or ""}
    return Labelled(item, ranked[0][0], text("source") or path.stem, **more)


def _image(path: Path) -> Callable[[], Image.Image]:
    def load() -> Image.Image:
        with Image.open(path) as image:
            return image.convert("RGB")

    return load


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"labels {path} cannot be read: {type(error).__name__}") from error
    if path.suffix.lower() in (".csv", ".tsv"):
        rows = _table(path, text, "," if path.suffix.lower() == ".csv" else "\t")
    else:
        rows = _json(path, text)
    if not rows:
        raise DataError(f"labels {path} hold no answer")
    return rows


def _json(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError):
        try:
            data = [json.loads(line) for line in text.split("\n") if line.strip()]
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"labels {path} are neither CSV or TSV (by name) nor JSON or JSON Lines: {error}"
            ) from error
    if isinstance(data, dict):
        data = _from_lists(path, data)
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise DataError(f"labels {path}: every line, or every entry of the array, must be a JSON object")
    return data


def _from_lists(path: Path, data: dict[str, Any]) -> Any:
    """The rows of an object of lists: columns, or HarmBench's lists of rows by a key; of other objects, one row."""
    lists = [value for value in data.values() if isinstance(value, list)]
    if len(lists) < len(data) or not data:
        return [data]
    if all(isinstance(row, dict) for rows in lists for row in rows):
        return [{"key": key, **row} for key, rows in data.items() for row in rows]
    if len({len(column) for column in lists}) > 1:
        lengths = ", ".join(f"{name} {len(column)}" for name, column in data.items())
        raise DataError(f"labels {path}: the columns differ in length: {lengths}")
    return [dict(zip(data, cells, strict=True)) for cells in zip(*lists, strict=True)]


def _table(path: Path, text: str, delimiter: str) -> list[dict[str, Any]]:
    usual = csv.field_size_limit(len(text) + 1)  # a response may be longer than the reader's own limit
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"labels {path} are no table: {error}") from error
    finally:
        csv.field_size_limit(usual)
    names = reader.fieldnames or []
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise DataError(f"labels {path}: two columns are called {twice[0]!r}; rename one of them")
    for number, row in enumerate(rows, 1):
        if None in row:
            raise DataError(
                f"labels {path}, row {number}: more cells than the {len(names)} columns; put a text with a separator "
                "into double quotes"
            )
    return rows
