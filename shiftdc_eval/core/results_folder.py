"""Reading what `lmms-eval --output_path DIR --log_samples` left, and the run records beside it.

Layout (lmms-eval 0.7.3): `DIR/<model>/<date>_results.json` and `DIR/<model>/<date>_samples_<task>.jsonl`.
Rows are told apart by the field `shiftdc` alone: never by `doc_hash`, by their order or by a filter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shiftdc_eval.core.errors import ConfigError, RecordError
from shiftdc_eval.core.json_files import explain, parse, read_text
from shiftdc_eval.core.paths import journal_dir
from shiftdc_eval.core.records import RunRecord, SampleField

FIELD = "shiftdc"
ITEM_FIELD = "shiftdc_item"
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
        try:
            content = json.loads(read_text(path))
        except ValueError as error:
            raise RecordError(f"{path}: not JSON: {error}") from None
        if not isinstance(content, dict):
            raise RecordError(f"{path}: expected an object, found {type(content).__name__}")
        return content

    def lines(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Line number, text without its end, and content of every row; blank lines are passed over.

        Raises:
            RecordError: names the line that is no UTF-8 or no JSON object.
        """
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise RecordError(f"{self.path}: cannot be read: {error}") from error
        with file:
            for number, raw in enumerate(file, 1):
                if not raw.strip():
                    continue
                try:
                    line = raw.decode("utf-8").removesuffix("\n")
                    row = json.loads(line)
                except ValueError as error:
                    raise RecordError(
                        f"{self.path}:{number}: not JSON ({error}); a torn line means that saving was cut off"
                    ) from None
                if not isinstance(row, dict):
                    raise RecordError(f"{self.path}:{number}: expected an object")
                yield number, line, row

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
        self._folders = [folder if folder.is_dir() else folder.absolute().parents[1] for folder in folders]
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
