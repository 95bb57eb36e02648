"""The journal: an append-only record of finished samples, so that a killed run can go on.

One JSONL file for each configuration and process. Its first line names the configuration in full; every
other line is one finished sample under a key that covers everything that can change its answer. Each batch
is flushed and fsynced before the next one starts, so SIGKILL loses at most the batch in flight.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, Self

import jsonlines
from filelock import Timeout

from shiftdc_eval.core.errors import JournalError
from shiftdc_eval.core.hashing import digest
from shiftdc_eval.core.locks import FileLock

JOURNAL_VERSION = 1
logger = logging.getLogger(__name__)


class Journal:
    """Finished samples of one configuration.

    Args:
        folder: where journals live; made when missing.
        config: everything that can change any answer, JSON-ready; another configuration is another file.
        rank: process index under data parallelism; each process appends to a file of its own and reads all.

    Raises:
        JournalError: the folder cannot be written, or another process is writing this journal.
    """

    def __init__(self, folder: Path, config: dict[str, Any], *, rank: int = 0) -> None:
        self._config = config
        stem = digest(config)[:24]
        self.path = folder / f"journal-{stem}.rank{rank}.jsonl"
        self._records: dict[str, dict[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path.with_suffix(".lock"), timeout=0)
            self._lock.acquire()
            self._set_aside_foreign_version()
            self._file: IO[str] = self.path.open("a", encoding="utf-8")
        except Timeout as error:
            raise JournalError(
                f"another run is writing {self.path}; wait for it, or give journal= another folder"
            ) from error
        except OSError as error:
            raise JournalError(
                f"cannot use the journal folder {folder}: {error}; give another one with journal="
            ) from error
        self._cut_torn_line()
        if self.path.stat().st_size == 0:
            self._write([{"journal": JOURNAL_VERSION, "config": config}])
        for path in sorted(folder.glob(f"journal-{stem}.rank*.jsonl")):
            self._read(path)

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
        """Write finished samples (each with its `key`) and make sure they are on disk."""
        batch = list(records)
        self._write(batch)
        self._records.update((record["key"], record) for record in batch)

    def close(self) -> None:
        """Release the file."""
        self._file.close()
        self._lock.release()

    def _write(self, records: Iterable[dict[str, Any]]) -> None:
        with jsonlines.Writer(self._file) as writer:
            writer.write_all(records)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _set_aside_foreign_version(self) -> None:
        """Move a journal of another schema version out of the way: its answers are kept but not reused."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline()
        try:
            version = json.loads(first)["journal"]
        except (ValueError, KeyError, TypeError):
            version = "unreadable" if first.endswith("\n") else JOURNAL_VERSION
        if version != JOURNAL_VERSION:
            aside = self.path.with_suffix(f".version-{version}")
            self.path.replace(aside)
            logger.warning("journal of version %s set aside as %s; starting anew", version, aside)

    def _cut_torn_line(self) -> None:
        """Remove a last line without its newline: the batch that was in flight when the run was killed."""
        with self.path.open("rb+") as file:
            content = file.read()
            kept = content.rfind(b"\n") + 1
            if kept < len(content):
                logger.warning("%s: removed a torn last line of %d bytes", self.path, len(content) - kept)
                file.truncate(kept)

    def _read(self, path: Path) -> None:
        # a byte that is no UTF-8 becomes a lone surrogate, which no record holds: the line below refuses it
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith("\n"):
                    break  # another process is writing it, or was killed while it did
                try:
                    line.encode("utf-8")
                    record = json.loads(line)
                    if number > 1:
                        self._records[record["key"]] = record
                    elif record["config"] != self._config:
                        raise JournalError(f"{path} belongs to another configuration; move it away")
                except (ValueError, KeyError, TypeError) as error:
                    raise JournalError(
                        f"{path} line {number} is damaged ({error}); delete that line to go on with the rest"
                    ) from error
