"""The journal: an append-only record of finished samples, so that a killed run can go on.

One JSONL file for each configuration and process. Its first line names the configuration in full; every
other line is one finished sample under a key that covers everything that can change its answer. Each batch
is on disk before the next one starts, so SIGKILL loses at most the batch in flight.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from shiftdc_eval.core.errors import JournalError
from shiftdc_eval.core.files import RowFile, reading, writing
from shiftdc_eval.core.hashing import digest
from shiftdc_eval.core.json_files import explain
from shiftdc_eval.core.locks import Busy, lock
from shiftdc_eval.core.records import Count, Seconds

JOURNAL_VERSION = 1
INSTEAD = "give another folder with journal= or --output_path"
logger = logging.getLogger(__name__)


class FinishedSample(BaseModel):
    """What a run relies on in a line of the journal; it may hold more."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    key: str
    """Hash of the request and its settings."""
    task: str
    text: str | None
    """The answer; None where there is none."""
    unanswered: str = ""
    """Why there is none."""
    tokens_in: Count
    tokens_out: Count
    seconds: Seconds
    notes: list[str]
    hardware: str = ""
    extra: dict[str, Any] = {}


class Journal:
    """Finished samples of one configuration.

    Args:
        folder: where journals live; made when missing.
        config: everything that can change any answer, JSON-ready; another configuration is another file.
        rank: process index under data parallelism; each process appends to a file of its own and reads all.

    Raises:
        JournalError: another process is writing this journal, or a line of it is damaged.
        WriteError: the folder cannot be written.
    """

    def __init__(self, folder: Path, config: dict[str, Any], *, rank: int = 0) -> None:
        self._config = config
        stem = digest(config)[:24]
        self.path = folder / f"journal-{stem}.rank{rank}.jsonl"
        self._records: dict[str, dict[str, Any]] = {}
        try:
            self._lock = lock(self.path.with_suffix(".lock"), wait=False, instead=INSTEAD)
        except Busy:
            raise JournalError(
                f"another run is writing {self.path}; wait for it, or give journal= another folder"
            ) from None
        try:
            self._set_aside_older_version()
            self._file = RowFile(self.path, INSTEAD)
            try:
                self._cut_torn_line()
                if self.path.stat().st_size == 0:
                    self._write([{"journal": JOURNAL_VERSION, "config": config}])
                for path in sorted(folder.glob(f"journal-{stem}.rank*.jsonl")):
                    self._read(path)
            except BaseException:
                self._file.close()
                raise
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> dict[str, Any] | None:
        """The finished sample under a key, or None."""
        return self._records.get(key)

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Write finished samples (each with its `key`) and make sure they are on disk.

        Raises:
            WriteError: they cannot be written; what stood there before still does.
        """
        batch = list(records)
        self._write(batch)
        self._records.update((record["key"], record) for record in batch)

    def close(self) -> None:
        """Release the file."""
        self._file.close()
        self._lock.release()

    def _write(self, records: Iterable[dict[str, Any]]) -> None:
        self._file.append("".join(json.dumps(record) + "\n" for record in records).encode())

    def _set_aside_older_version(self) -> None:
        """Move a journal of an older schema version out of the way: its answers are kept but not reused."""
        if not self.path.is_file():
            return
        with reading(self.path, JournalError), self.path.open("rb") as file:
            first = file.readline()
        if not first.endswith(b"\n"):
            return  # torn, see `_cut_torn_line`
        version = _header(self.path, first).get("journal")
        if isinstance(version, int) and version < JOURNAL_VERSION:
            aside = self.path.with_suffix(f".version-{version}")
            with writing(aside, INSTEAD):
                os.replace(self.path, aside)
            logger.warning("journal of version %s set aside as %s; starting anew", version, aside)

    def _cut_torn_line(self) -> None:
        """Remove a last line without its newline: the batch that was in flight when the run was killed."""
        with reading(self.path, JournalError):
            content = self.path.read_bytes()
        kept = content.rfind(b"\n") + 1
        if kept < len(content):
            logger.warning("%s: removed a torn last line of %d bytes", self.path, len(content) - kept)
            self._file.cut(kept)

    def _read(self, path: Path) -> None:
        with reading(path, JournalError), path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break  # another process is writing it, or was killed while it did
                if number == 1:
                    self._check(path, _header(path, line))
                    continue
                try:
                    record = json.loads(line)
                    self._records[FinishedSample.model_validate(record).key] = record
                except (ValueError, RecursionError) as error:
                    said = "; ".join(explain(error)) if isinstance(error, ValidationError) else error
                    raise JournalError(
                        f"{path} line {number} is damaged ({said}); delete that line to go on with the rest"
                    ) from error

    def _check(self, path: Path, header: dict[str, Any]) -> None:
        version = header.get("journal")
        if isinstance(version, int) and version > JOURNAL_VERSION:
            raise JournalError(
                f"{path}: a newer version of shiftdc-eval wrote this journal (version {version}, this one reads "
                f"{JOURNAL_VERSION}); update shiftdc-eval, or {INSTEAD}"
            )
        if version != JOURNAL_VERSION or header.get("config") != self._config:
            raise JournalError(f"{path} belongs to another configuration; move it away")


def _header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
        if not isinstance(header, dict):
            raise ValueError("no JSON object")
    except (ValueError, RecursionError) as error:
        raise JournalError(
            f"{path} line 1 is damaged ({error}); move the file away to answer anew, or put its first line back"
        ) from error
    return header
