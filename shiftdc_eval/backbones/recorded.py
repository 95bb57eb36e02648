"""A model folder's recorded revision: the same for folders made from the same parts on different machines.

Whoever makes a folder from parts (base and delta) may note in the file `SHIFTDC_REVISION` what it was made from,
beside the hash of the folder's files. Serialised configurations differ in details between versions of
transformers; the recorded revision does not. It holds as long as every file is what was recorded.
"""

from __future__ import annotations

import json
from pathlib import Path

FILE = "SHIFTDC_REVISION"
"""JSON; without a suffix, so that it is none of the files that the folder's own hash is over."""


def record(folder: Path, revision: str, files: str, **facts: str) -> None:
    """Note a folder's revision and the hash of its files; written last, it makes the folder whole."""
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
