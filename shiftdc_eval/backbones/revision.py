"""A model folder's recorded revision: the same for folders made from the same parts on different machines.

A folder that was merged from parts (base and delta) records in the file `SHIFTDC_REVISION` what it was made from
and the hash of its files. Serialised configurations differ in details between versions of
transformers; the recorded revision does not. It is valid while no file has changed.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

FILE = "SHIFTDC_REVISION"
"""JSON; its name has no suffix, so that the folder's hash leaves it out."""


def record(folder: Path, revision: str, files: str, **facts: str) -> None:
    """Record a folder's revision and the hash of its files; written last, when the folder is complete."""
    content = {"revision": revision, "files": files, **facts}
    (folder / FILE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def recorded_revision(folder: Path, files: str) -> str | None:
    """The recorded revision; None when none is recorded or the files' hash is not the recorded one."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("files") != files:
        return None
    revision = content.get("revision")
    return revision if isinstance(revision, str) and revision else None


REVISION_SUFFIXES = (
    *(".safetensors", ".bin", ".pt", ".pth", ".json", ".jinja", ".model", ".tiktoken", ".txt", ".py"),
)
"""Files of a folder that can change an answer: weights, configuration, tokenizer, template, code."""


def folder_revision(folder: Path) -> str:
    """sha256 over a folder's weights and configuration files, so that a changed folder is another model.

    For a merged folder whose files are unchanged, the revision that it recorded.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix in REVISION_SUFFIXES)
    stats = [(path, path.stat()) for path in found]
    files = _hashed(tuple((path, stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats))
    return recorded_revision(folder, files) or files


@lru_cache(maxsize=16)
def _hashed(files: tuple[tuple[Path, int, int, int], ...]) -> str:
    """Cached per process by size and modification time, because a grid asks for every cell."""
    digest = hashlib.sha256()
    for path, size, *_ in files:
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
