"""Reading the files of `lmms-eval --output_path DIR --log_samples` and the run records beside them.

Layout (lmms-eval 0.7.3): `DIR/<model>/<date>_results.json` and `DIR/<model>/<date>_samples_<task>.jsonl`.
Rows are identified by the field `shiftdc` alone, never by `doc_hash`, order or filter.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shiftdc_eval.core.errors import ConfigError, RecordError
from shiftdc_eval.core.files import reading
from shiftdc_eval.core.json_files import explain, parse, parse_object, read_text
from shiftdc_eval.core.paths import journal_dir
from shiftdc_eval.core.records import RunRecord, SampleField, StoredItem
from shiftdc_eval.core.terminal import printable

FIELD = "shiftdc"
ITEM_FIELD = "shiftdc_item"
logger = logging.getLogger(__name__)
SAMPLES_NAME = re.compile(r"(?P<date>.+?)_samples_(?P<task>.+)\.jsonl")


@dataclass(frozen=True)
class SampleFile:
    """One samples file and the results file that belongs to it."""

    path: Path
    task: str
    """Task name, from the file name."""
    date: str
    """The date in the file name."""

    @cached_property
    def results(self) -> dict[str, Any]:
        """Content of the results file.

        Raises:
            RecordError: missing or not JSON.
        """
        path = self.path.with_name(f"{self.date}_results.json")
        if not path.is_file():
            raise RecordError(
                f"{self.path}: no {path.name} beside it, so that run did not finish saving; run it again "
                "(a journalled run continues where it stopped)"
            )
        return parse_object(read_text(path), path)

    def lines(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Line number, text without its end, and content of every row; blank lines are passed over.

        A run that is killed while it saves leaves a last line without its end: the rows before it are read, and a
        warning says that they are not all.

        Raises:
            RecordError: the file cannot be read, or a line that has its end is not UTF-8 or not a JSON object.
        """
        number = 0
        with reading(self.path, RecordError), self.path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                try:
                    line = raw.decode("utf-8").removesuffix("\n")
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    if not raw.endswith(b"\n"):
                        _tell_torn(
                            self.path, f"line {number} is cut off, the {number - 1} before it are read"
                        )
                        return
                    raise RecordError(
                        f"{self.path}:{number}: not JSON ({error}); a torn line means that saving was cut off: delete "
                        "it, or run the same command again"
                    ) from None
                if not isinstance(row, dict):
                    raise RecordError(f"{self.path}:{number}: expected an object")
                yield number, line, row
        if not number:
            _tell_torn(self.path, "empty")

    def torn(self) -> bytes:
        """The last line of a file that was cut off in it; empty where the file is whole.

        Raises:
            RecordError: it cannot be read.
        """
        with reading(self.path, RecordError):
            last = self.path.read_bytes().rpartition(b"\n")[2]
        try:
            json.loads(last or b"{}")
        except (ValueError, RecursionError):
            return last
        return b""

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Line number and content of every row.

        Raises:
            RecordError: as `lines`.
        """
        return ((number, row) for number, _, row in self.lines())

    def samples(self) -> Iterator[tuple[str, SampleField]]:
        """(`file:line`, field) of every row of ours; rows of foreign tasks are passed over.

        Raises:
            RecordError: names file, line and field.
        """
        for number, row in self.rows():
            if FIELD in row:
                source = f"{self.path}:{number}"
                yield source, sample_field(row, source)


@cache  # one warning a file, however often it is read
def _tell_torn(path: Path, what: str) -> None:
    logger.warning(
        "%s: %s: the run was stopped while it saved; the same command saves all rows again",
        printable(path),
        what,
    )


def stored_item(row: Mapping[str, Any], source: str) -> StoredItem:
    """The field `shiftdc_item` of a row.

    Raises:
        RecordError: there is none, or it is invalid; names the source and what is wrong.
    """
    stored = row.get(ITEM_FIELD)
    if not isinstance(stored, dict) or not {"request", "response"} <= stored.keys():
        raise RecordError(
            f"{source}: no field `{ITEM_FIELD}` with request and response; judge it anew by a run"
        )
    if not isinstance(stored["response"], str | None):
        raise RecordError(f"{source}: the response is no text: {str(stored['response'])[:60]!r}")
    try:
        return StoredItem.model_validate(stored)
    except ValidationError as error:
        raise RecordError(f"{source}: {ITEM_FIELD}: {'; '.join(explain(error))}") from None


def sample_field(row: Mapping[str, Any], source: str) -> SampleField:
    """The field `shiftdc` of a row.

    Raises:
        RecordError: there is none, or it is invalid; names the source and what is wrong.
    """
    try:
        return SampleField.model_validate(row.get(FIELD))
    except ValidationError as error:
        raise RecordError(f"{source}: {FIELD}: {'; '.join(explain(error))}") from None


def sample_file(path: Path) -> SampleFile:
    """A samples file; of one under another name than lmms-eval gives, the name is the task."""
    match = SAMPLES_NAME.fullmatch(path.name)
    return SampleFile(path, match["task"], match["date"]) if match else SampleFile(path, path.stem, "")


def sample_files(paths: Sequence[Path]) -> list[SampleFile]:
    """The samples files among and below the paths, in an order that does not depend on the file system.

    Raises:
        RecordError: a path does not exist, or a folder holds no samples file.
    """
    found: dict[Path, SampleFile] = {}
    for path in paths:
        if not path.exists():
            raise RecordError(f"{path}: no such results folder")
        below = [path] if path.is_file() else sorted(path.rglob("*_samples_*.jsonl"))
        files = [sample_file(one) for one in below]
        if not files:
            raise RecordError(
                f"{path}: no <date>_samples_<task>.jsonl in it; run lmms-eval with "
                "--output_path DIR --log_samples, or use `shiftdc-eval run`, which adds both"
            )
        found |= {file.path.resolve(): file for file in files}
    return [found[path] for path in sorted(found)]


def find_samples(paths: Sequence[Path], tasks: Sequence[str] = ()) -> list[Path]:
    """The samples files of our tasks among and below the paths.

    Args:
        tasks: task names to keep; none: all.

    Raises:
        RecordError: a path is not there, or holds no samples file.
        ConfigError: none is ours (of these tasks).
    """
    files = sample_files(paths)
    kept = [file.path for file in files if (not tasks or file.task in tasks) and is_ours(file.path)]
    if not kept:
        there = ", ".join(sorted({file.task for file in files}))
        wanted = f"the tasks {', '.join(tasks)}" if tasks else "our tasks (no field `shiftdc` in their rows)"
        raise ConfigError(f"no samples of {wanted} in {', '.join(map(str, paths))}; there are: {there}")
    return kept


def is_ours(path: Path) -> bool:
    """True when any row has our field: lmms-eval's own tasks write samples files too."""
    return any(FIELD in row for _, row in sample_file(path).rows())


class RunRecords:
    """Run records by id: those beside the results first, then those in the journal folder."""

    def __init__(self, folders: Sequence[Path]) -> None:
        # lmms-eval puts a samples file into a folder of the model, one below the folder that it was given
        self._folders = [folder if folder.is_dir() else folder.absolute().parent.parent for folder in folders]
        self._known: dict[str, RunRecord] = {}

    def get(self, run_id: str, source: str) -> RunRecord:
        """The record of a run.

        Raises:
            RecordError: there is none (the run did not complete), it is invalid, or it names another run.
        """
        if run_id not in self._known:
            self._known[run_id] = self._read(run_id, source)
        return self._known[run_id]

    def _read(self, run_id: str, source: str) -> RunRecord:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", run_id):
            raise RecordError(f"{source}: {FIELD}.run: {run_id!r} is not a run id")
        name = f"run-{run_id}.json"
        for folder in [*self._folders, journal_dir()]:
            for path in sorted(folder.rglob(name)):
                record = parse(read_text(path), RunRecord, path)
                if record.id != run_id:
                    raise RecordError(f"{path}: id: holds run {record.id!r}, not {run_id!r}")
                return record
        places = ", ".join(map(str, [*self._folders, journal_dir()]))
        raise RecordError(
            f"{source}: no {name} in {places}: the run did not complete, or its record was left behind; "
            "run it again (it continues from its journal) or copy the record beside the results"
        )
