"""The items of a CSV benchmark; every cell and image is checked before a model is loaded."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache, partial
from pathlib import Path

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import file_sha256, text_sha256
from shiftdc_eval.core.images import load_image
from shiftdc_eval.tasks.data import numbered_rows
from shiftdc_eval.tasks.example import CLEAR_HARM, Example, Source, require_unique
from shiftdc_eval.tasks.folder.settings import OPTIONAL, FolderSettings


def read(task: str, settings: FolderSettings) -> Source:
    """The items of a CSV benchmark; the revision is a hash of their texts and images.

    Args:
        task: name of the task, with which ids begin.
        settings: file and columns.

    Raises:
        DataError: file, column or image missing, or a cell empty; names file, line and column.
    """
    table = Path(settings.data_files)
    if not table.is_file():
        raise DataError(
            f"{table}: no such CSV file; data_files counts from the yaml file's folder where that has "
            "`dataset_path: csv`"
        )
    columns = _columns(table, settings)
    hashes: dict[Path, str] = {}
    examples, content = [], []
    for line, row in numbered_rows(table, list(columns.values())):
        cells = {role: row[column] for role, column in columns.items()}
        path = table.parent / cells["image"]
        if path not in hashes:
            hashes[path] = _image_sha256(path, f"{table}, line {line}: column {columns['image']!r}")
        number = cells.get("id") or f"{cells['image']}#{text_sha256(cells['prompt'])[:8]}"
        group = cells.get("group") or cells.get("scenario")
        examples.append(
            Example(
                id=f"{task}/{number}",
                question=f"{task}/{number}",
                prompt=cells["prompt"],
                request=cells.get("request", cells["prompt"]),
                scenario=cells.get("scenario", ""),
                reference=cells.get("reference"),
                groups={"group": group} if group else {},
                flags=(CLEAR_HARM,) if settings.kind == "harmful" else (),
                image=partial(load_image, path),
            )
        )
        content.append([number, hashes[path], {name: cells[name] for name in cells if name != "image"}])
    require_unique(examples, str(table))
    digest = hashlib.sha256(json.dumps([settings.kind, content], sort_keys=True).encode())
    return Source(examples, str(table.name), f"sha256:{digest.hexdigest()}")


def _columns(table: Path, settings: FolderSettings) -> dict[str, str]:
    """Role -> column: those named in the settings, and optional columns named like their role."""
    wanted = {"image": settings.image, "prompt": settings.prompt}
    wanted |= {role: name for role in OPTIONAL if (name := getattr(settings, role)) is not None}
    if settings.kind == "utility":
        wanted.setdefault("reference", "reference")
    first = next(numbered_rows(table, list(wanted.values())), None)
    if first is None:
        raise DataError(f"{table}: holds no rows")
    return {role: role for role in OPTIONAL if role in first[1]} | wanted


@lru_cache(maxsize=100_000)
def _checked_sha256(path: Path, size: int, changed: int) -> str:
    """Hash of an image file that decodes; read again only when its size or time of change differ."""
    load_image(path)
    return file_sha256(path)


def _image_sha256(path: Path, where: str) -> str:
    try:
        state = path.stat()
        return _checked_sha256(path, state.st_size, state.st_mtime_ns)
    except FileNotFoundError as error:
        raise DataError(f"{where}: no image {path}") from error
    except (DataError, OSError) as error:
        raise DataError(f"{where}: {error}") from error
