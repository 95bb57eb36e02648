"""Joining sample rows with their run records into cells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from shiftdc_eval.board.cell import CELL_VERSION, Cell, RunSource
from shiftdc_eval.board.ingest.metadata import Head, head_of
from shiftdc_eval.board.ingest.rows import JudgeId, Row, RowKey, Verdict, columns, row_of, rows_of
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.json_files import explain
from shiftdc_eval.core.results_folder import RunRecords, sample_files

Part = tuple[RowKey, JudgeId | None]
"""An answer, or one judge's verdict on it."""


@dataclass
class Draft:
    """A cell in the making."""

    head: Head
    rows: dict[RowKey, Row] = field(default_factory=dict)
    kept: dict[str, RunSource] = field(default_factory=dict)
    """Runs of the cell that is on the board already."""
    owners: dict[Part, RunSource] = field(default_factory=dict)
    """The earliest run that gave each new part, whatever the order of the files."""
    stamps: dict[Part, tuple[str, ...]] = field(default_factory=dict)
    """Age of each new verdict, for comparison."""

    def add(self, key: RowKey, row: Row, run: RunSource, date: str = "") -> None:
        """Take in one row; an identical one is dropped, new verdicts on a known answer are added.

        A scored verdict replaces an unscored one; of two alike, and of two reasons for none, the earlier one counts.

        Args:
            key: item and repeat.
            row: the answer with its verdicts.
            run: the run it is from.
            date: when its results were saved, which tells a run's results from the same results judged again.
        Raises:
            RecordError: it contradicts a row that is already there.
        """
        known = self.rows.get(key)
        answer: Part = (key, None)
        if known is not None and bool(known.response) != bool(row.response):
            if known.response:
                return  # no answer then, one now
            del self.rows[key]
            for judge in (None, *known.verdicts):
                self.owners.pop((key, judge), None)
                self.stamps.pop((key, judge), None)
            known = None
        if known is None or answer in self.owners:
            self.owners[answer] = min(self.owners.get(answer, run), run, key=_age)
        taken = []
        for judge, verdict in row.verdicts.items():
            stamp = (*_age(run), date, verdict[1])
            if self._counts(known, (key, judge), judge, verdict, stamp):
                self.owners[key, judge], self.stamps[key, judge] = run, stamp
                taken.append(judge)
        if known is None:
            self.rows[key] = row
        else:
            known.merge(row, key)
            for judge in taken:
                known.take(row, judge)

    def _counts(
        self, known: Row | None, part: Part, judge: JudgeId, verdict: Verdict, stamp: tuple[str, ...]
    ) -> bool:
        """Whether a verdict counts rather than the one that is there."""
        if known is None or judge not in known.verdicts:
            return True
        there, here = known.verdicts[judge][0] is not None, verdict[0] is not None
        if there != here:
            return here
        return part in self.stamps and stamp < self.stamps[part]

    @property
    def runs(self) -> list[RunSource]:
        """The runs that contributed, by id."""
        found = self.kept | {run.id: run for run in self.owners.values()}
        return [found[run] for run in sorted(found)]

    def cell(self) -> Cell:
        """The finished cell.

        Raises:
            RecordError: the rows do not make a valid cell; names the run, the field and what is wrong.
        """
        head = self.head
        with valid(f"run {head.run.id}: cell {head.path}"):
            samples, judges = columns(self.rows)
            return Cell(
                cell_version=CELL_VERSION,
                task=head.task,
                model=head.model,
                defense=head.defense,
                dtype=head.dtype,
                attention=head.attention,
                seed=head.seed,
                ablation=head.ablation,
                samples=samples,
                judges=judges,
                runs=self.runs,
            )


@contextmanager
def valid(source: str) -> Iterator[None]:
    """Turns what a schema refuses into an error of ours that names the source."""
    try:
        yield
    except ValidationError as error:
        raise RecordError(f"{source}: {'; '.join(explain(error))}") from None


def join(folders: Sequence[Path], existing: Iterable[Cell] = (), anew: bool = False) -> list[Cell]:
    """Cells of the results folders, joined with what the board holds of the same cells; sorted by path.

    Args:
        folders: results folders as lmms-eval writes them.
        existing: cells of the board.
        anew: new results take the place of existing cells instead of being added to them.
    Raises:
        RecordError: rows contradict each other, or nothing in the folders is ours.
    """
    old = {cell.path: cell for cell in existing}
    records = RunRecords(folders)
    drafts: dict[str, Draft] = {}
    for file in sample_files(folders):
        heads: dict[str | None, Head] = {}
        for source, sample in file.samples():
            head = heads.get(sample.run)
            if head is None:
                with valid(f"{source}: run {sample.run or file.date}"):
                    head = head_of(file, sample.run, records, source)
                heads[sample.run] = head
            draft = drafts.get(head.path)
            if draft is None:
                draft = drafts[head.path] = _draft(head, None if anew else old.get(head.path))
            elif not draft.kept:
                draft.head = min(draft.head, head, key=lambda one: _age(one.run))
            draft.add(*row_of(sample, source), head.run, file.date)
    if not drafts:
        raise RecordError(
            f"{', '.join(map(str, folders))}: no sample row holds the field `shiftdc`; "
            "only tasks of shiftdc-eval can be put on the board"
        )
    return [drafts[path].cell() for path in sorted(drafts)]


def _draft(head: Head, known: Cell | None) -> Draft:
    if known is None:
        return Draft(head)
    kept = replace(head, task=known.task, model=known.model, defense=known.defense, ablation=known.ablation)
    return Draft(kept, rows_of(known), {run.id: run for run in known.runs})


def _age(run: RunSource) -> tuple[str, str]:
    return run.finished, run.id
