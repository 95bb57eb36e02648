"""What the journal of a run tells of its answers beside their text: captions, self-checks, scores, notes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from shiftdc_eval.board.defense_labels import FITTED
from shiftdc_eval.core.paths import journal_dir
from shiftdc_eval.core.records import RunRecord

Line = Mapping[str, Any]
"""One line of a journal."""
SAME = ("defense", "revision", "dtype", "seed")
"""Facts that a journal shares with its run's record: a folder may hold the journals of several runs."""


class Journals:
    """The journals that stand beside run records.

    A line that cannot be read is passed over: the answer itself stands in the samples file.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders
        self._run = ""
        self._lines: dict[tuple[object, ...], Line] = {}
        """Of one run at a time: a journal holds every answer."""

    @cached_property
    def _places(self) -> dict[str, Path]:
        """Name of a run record -> its folder; looked for when an answer is told of, which may take a while."""
        below = [folder if folder.is_dir() else folder.absolute().parent.parent for folder in self._folders]
        return {
            path.name: path.parent
            for folder in [journal_dir(), *reversed(below)]
            for path in sorted(folder.rglob("run-*.json"))
        }

    def of(
        self, record: RunRecord, task: str, document: object, repeat: int, response: str | None
    ) -> list[tuple[str, str]]:
        """What is told of an answer, as pairs of name and text; nothing where no journal holds it."""
        if record.id != self._run:
            self._run, self._lines = record.id, self._read(record)
        return told(self._lines.get((task, document, repeat, str(response).strip()), {}))

    def _read(self, record: RunRecord) -> dict[tuple[object, ...], Line]:
        place = self._places.get(f"run-{record.id}.json")
        found: dict[tuple[object, ...], Line] = {}
        for path in sorted(place.glob("journal-*.jsonl")) if place else ():
            lines = _objects(path)
            if _is_of(next(lines, {}).get("config"), record):
                found |= {
                    (
                        line.get("task"),
                        line.get("doc_id"),
                        line.get("repeat"),
                        str(line.get("text")).strip(),
                    ): line
                    for line in lines
                }
        return found


def _is_of(config: object, record: RunRecord) -> bool:
    """True for the header of a journal that a run could have written."""
    if not isinstance(config, dict) or any(config.get(name) != getattr(record, name) for name in SAME):
        return False
    given = config.get("settings")
    return isinstance(given, dict) and all(
        given.get(name) == value for name, value in record.settings.items() if name not in FITTED
    )


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for raw in file:
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):  # torn: the run was stopped while it wrote
                continue
            if isinstance(line, dict):
                yield line


def told(line: Line) -> list[tuple[str, str]]:
    """What a line tells of how its answer was made, as pairs of name and text."""
    extra, notes = line.get("extra"), line.get("notes")
    pairs = list(extra.items()) if isinstance(extra, dict) else []
    pairs.append(("notes", ", ".join(map(str, notes)) if isinstance(notes, list) else ""))
    return [(name.replace("_", " "), _text(value)) for name, value in pairs if value not in ("", None)]


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
