"""Where benchmark data is found: the folder `SHIFTDC_DATA`, else the authors' own files.

`SHIFTDC_DATA` holds one folder a benchmark (`figstep/`, `mm_safetybench/`, ...); the layout of the
authors' repository below that folder is accepted too. Nothing is fetched at import.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.core.paths import cache_dir
from shiftdc_eval.tasks.example import Source

logger = logging.getLogger(__name__)

BROKEN_IMAGE = (UnidentifiedImageError, OSError, SyntaxError, ValueError)
"""What Pillow raises for a file that is not a whole image."""
FETCH_SECONDS = 30
"""Longest wait for a server's answer."""


def local_folder(benchmark: str) -> Path | None:
    """Folder of one benchmark below `SHIFTDC_DATA`; None where there is none.

    Raises:
        DataError: `SHIFTDC_DATA` is set to something that is not a folder.
    """
    root = os.environ.get("SHIFTDC_DATA")
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
    """The sentence that ends every error about missing data."""
    root = os.environ.get("SHIFTDC_DATA")
    where = f"{root}/{benchmark}/" if root else f"$SHIFTDC_DATA/{benchmark}/ (SHIFTDC_DATA is not set)"
    files = import_module(f"shiftdc_eval.tasks.{benchmark}.facts").FILES
    return f"Put {files} into {where}"


def local_or_hub(
    benchmark: str, from_folder: Callable[[Path], Source | None], from_hub: Callable[[], Source]
) -> Source:
    """A benchmark from its local folder, or from the hub where there is no folder or it holds none of the data.

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


def fetch(url: str, sha256: str, target: Path, benchmark: str) -> Path:
    """Download one file (https) once, and check its checksum.

    Raises:
        DataError: the server cannot be reached or the content is another; says what would do instead.
    """
    if target.exists() and file_sha256(target) == sha256:
        return target
    try:
        with urllib.request.urlopen(url, timeout=FETCH_SECONDS) as response:  # noqa: S310 - https literals
            content: bytes = response.read()
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"{benchmark}: {url} (sha256 {sha256}) cannot be fetched: {reason}. " + how_to_provide(benchmark)
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataError(
            f"{benchmark}: {url} has sha256 {found}, expected {sha256}; the file has changed upstream. "
            + how_to_provide(benchmark)
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    partial.write_bytes(content)
    os.replace(partial, target)
    return target


def cached(benchmark: str, revision: str, name: str) -> Path:
    """Where a fetched file is kept."""
    return cache_dir() / "data" / benchmark / revision / name


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file, every named column present and filled.

    Raises:
        DataError: names the file, the line and the column.
    """
    return [row for _, row in numbered_rows(path, columns)]


def numbered_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """As `read_csv`, each row with its line (of a row of several lines, the last)."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path}, line 1: column {missing[0]!r} is missing; it has {reader.fieldnames}"
                )
            for row in reader:
                for name in columns:
                    if not row[name]:
                        raise DataError(f"{path}, line {reader.line_num}: column {name!r} is empty")
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a readable UTF-8 CSV file: {error}") from error


def read_json(path: Path, kind: type) -> Any:
    """Content of a JSON file whose top level is a `kind` (dict or list), without repeated keys.

    Raises:
        DataError: names the file and what is wrong with it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_repeats(path))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
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
    """A non-empty string of a row.

    Raises:
        DataError: names file, row and column.
    """
    value = row.get(name) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: {name!r} must be a non-empty text, found {value!r}")
    return value


def image_loader(path: Path) -> Callable[[], Image.Image]:
    """Loads an image file on demand.

    The returned function raises DataError, naming the file, when it is missing or broken.
    """

    def load() -> Image.Image:
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except FileNotFoundError as error:
            raise DataError(f"{path}: image is missing") from error
        except BROKEN_IMAGE as error:
            raise DataError(f"{path}: broken image: {error}") from error

    return load
