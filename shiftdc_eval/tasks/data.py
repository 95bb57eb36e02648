"""Where benchmark data is found: the folder `SHIFTDC_DATA`, else the authors' own files.

`SHIFTDC_DATA` holds one folder a benchmark (`figstep/`, `mm_safetybench/`, ...); the layout of the
authors' repository below that folder is accepted too. Nothing is fetched at import.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.core.paths import cache_dir
from shiftdc_eval.judges.text import is_blank
from shiftdc_eval.tasks.example import Source

logger = logging.getLogger(__name__)

FETCH_SECONDS = 30
"""Longest wait for a server's answer."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of the authors' repository, pinned."""

    benchmark: str
    """Name of the benchmark's folder."""
    revision: str
    """What the URL pins; names the folder of the cache."""
    url: str
    """Where it is fetched from (https)."""
    sha256: str
    """Its checksum."""

    def revision_of(self, path: Path) -> str:
        """The pinned revision for a file with this checksum, else the checksum that the file has."""
        found = file_sha256(path)
        return self.revision if found == self.sha256 else f"sha256:{found}"


def local_folder(benchmark: str) -> Path | None:
    """Folder of one benchmark below `SHIFTDC_DATA`; None where there is none.

    Raises:
        DataError: `SHIFTDC_DATA` is set to something that is not a folder.
    """
    root = setting("SHIFTDC_DATA")
    if not root:
        return None
    if not Path(root).is_dir():
        raise DataError(f"SHIFTDC_DATA={root} is not a folder; set it to the folder that holds {benchmark}/")
    folder = Path(root) / benchmark
    return folder if folder.is_dir() else None


def first_existing(folder: Path | None, *candidates: str) -> Path | None:
    """The first of the candidate paths below `folder` that exists."""
    if folder is None:
        return None
    return next((folder / name for name in candidates if (folder / name).exists()), None)


def how_to_provide(benchmark: str) -> str:
    """The last sentence of an error about missing data: which files are needed, and where to put them."""
    root = setting("SHIFTDC_DATA")
    where = f"{root}/{benchmark}/" if root else f"$SHIFTDC_DATA/{benchmark}/ (SHIFTDC_DATA is not set)"
    files = import_module(f"shiftdc_eval.tasks.{benchmark}.facts").FILES
    return f"Put {files} into {where}"


def local_or_hub(
    benchmark: str, from_folder: Callable[[Path], Source | None], from_hub: Callable[[], Source]
) -> Source:
    """A benchmark from its local folder, or from the hub where the folder is absent or holds none of the data.

    Args:
        benchmark: name of its folder.
        from_folder: reads the folder; None when the data is not in it.
        from_hub: loads it from the hub.
    """
    folder = local_folder(benchmark)
    source = None if folder is None else from_folder(folder)
    if source is not None:
        return source
    if folder is not None:
        logger.warning("%s holds none of the data, asking the hub. %s", folder, how_to_provide(benchmark))
    return from_hub()


def local_or_fetched(file: RemoteFile, *candidates: str) -> tuple[Path, bool]:
    """A file of the benchmark's local folder, else the pinned one, fetched once; and whether it is local.

    Args:
        file: the pinned one.
        candidates: paths below the local folder.

    Raises:
        DataError: it is not there and cannot be fetched.
    """
    found = first_existing(local_folder(file.benchmark), *candidates)
    return (found, True) if found is not None else (fetch(file), False)


def fetch(file: RemoteFile) -> Path:
    """Download a file (https) once, and check its checksum.

    Raises:
        DataError: the server cannot be reached, the content differs (names the local files to use instead),
            or the cache cannot be written.
    """
    target = cache_dir() / "data" / file.benchmark / file.revision / file.url.rpartition("/")[2]
    if target.exists() and file_sha256(target) == file.sha256:
        return target
    try:
        with urllib.request.urlopen(file.url, timeout=FETCH_SECONDS) as response:  # noqa: S310 - https literals
            content: bytes = response.read()
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"{file.benchmark}: {file.url} (sha256 {file.sha256}) cannot be fetched: {reason}. "
            + how_to_provide(file.benchmark)
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != file.sha256:
        raise DataError(
            f"{file.benchmark}: {file.url} has sha256 {found}, expected {file.sha256}; the file has changed "
            f"upstream. {how_to_provide(file.benchmark)}"
        )
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        os.replace(partial, target)
    except OSError as error:
        raise DataError(
            f"{target}: cannot be written: {error.strerror}; set SHIFTDC_CACHE to another folder"
        ) from error
    return target


def read_text(path: Path) -> str:
    """Content of a UTF-8 text file, with or without a byte order mark.

    Raises:
        DataError: it cannot be read; of another encoding, names the line.
    """
    try:
        content = path.read_bytes()
        return content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: not UTF-8 (byte 0x{content[error.start]:02x}); save the file as UTF-8"
        ) from error


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file, every named column present and filled.

    Raises:
        DataError: names the file, the line and the column.
    """
    return [row for _, row in numbered_rows(path, columns)]


def numbered_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """As `read_csv`, each row with its line number (of a row of several lines, the last)."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        names = list(reader.fieldnames or ())
        if not names:
            raise DataError(f"{path}: the file is empty; line 1 must name the columns {', '.join(columns)}")
        for name in columns:
            if name not in names:
                raise DataError(f"{path}, line 1: column {name!r} is missing; it has {names}")
            if names.count(name) > 1:
                raise DataError(f"{path}, line 1: column {name!r} appears twice")
        for row in reader:
            if None in row:
                raise DataError(
                    f"{path}, line {reader.line_num}: more cells than line 1 has columns ({len(names)}); put a text "
                    "with a comma into double quotes"
                )
            for name in columns:
                if is_blank(row[name]):
                    raise DataError(f"{path}, line {reader.line_num}: column {name!r} is empty")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num + 1}: not readable as CSV: {error}") from error


def read_json(path: Path, kind: type) -> Any:
    """Content of a JSON file whose top level is a `kind` (dict or list), without repeated keys.

    Raises:
        DataError: names the file and what is wrong with it.
    """
    try:
        content = json.loads(read_text(path), object_pairs_hook=_no_repeats(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, kind):
        raise DataError(f"{path}: expected a JSON {kind.__name__}, found a {type(content).__name__}")
    return content


def _no_repeats(path: Path) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, value in pairs:
            if key in made:
                raise DataError(f"{path}: key {key!r} appears twice")
            made[key] = value
        return made

    return build


def text_field(row: Any, name: str, where: str) -> str:
    """A string of a row in which a reader sees something.

    Raises:
        DataError: names file, row and column.
    """
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, str) or is_blank(value):
        raise DataError(f"{where}: {name!r} must be a non-empty text, found {value!r:.200}")
    return value


def whole_number(row: dict[str, Any], name: str, where: str) -> int:
    """A whole number of a row.

    Raises:
        DataError: names file, row and column.
    """
    value = row.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{where}: {name} must be a whole number, found {value!r:.200}")
    return value


def image_file(folder: Path, name: str, suffixes: Sequence[str] = ()) -> tuple[Path, bool]:
    """An image file of a folder, under its own name or with one of the suffixes; and whether it exists."""
    candidates = [folder / name, *((folder / name).with_suffix(suffix) for suffix in suffixes)]
    found = next((path for path in candidates if path.is_file()), None)
    return found or candidates[0], found is not None
