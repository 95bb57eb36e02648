"""Joining sample rows with their run records into cells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from shiftdc_eval.board.cell import (
    CELL_VERSION,
    Cell,
    CellDefense,
    CellModel,
    CellTask,
    RunSource,
    cell_key,
    cell_path,
)
from shiftdc_eval.board.files import explain
from shiftdc_eval.board.results import RunRecords, SampleFile, sample_files
from shiftdc_eval.board.rows import JudgeId, Row, RowKey, Verdict, columns, row_of, rows_of
from shiftdc_eval.errors import RecordError
from shiftdc_eval.records import Cost, RunRecord, TaskRecord

ABLATIONS: Mapping[str, str] = {"random": "random direction control"}
"""Defenses that exist to be compared with and never rank."""


@dataclass(frozen=True)
class Head:
    """A cell without its samples."""

    task: CellTask
    model: CellModel
    defense: CellDefense
    dtype: str
    attention: str
    seed: int
    ablation: str
    run: RunSource

    @property
    def path(self) -> str:
        """Path of the cell below `cells/`."""
        return cell_path(cell_key(self.task, self.model, self.defense, self.dtype, self.attention, self.seed))


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
    """Which run each new part is from; of several the earliest, whatever the order of the files."""
    stamps: dict[Part, tuple[str, ...]] = field(default_factory=dict)
    """How old each new verdict is."""

    def add(self, key: RowKey, row: Row, run: RunSource, date: str = "") -> None:
        """Take in one row; an identical one is dropped, new verdicts on a known answer are added.

        A verdict takes the place of none; of two alike, and of two reasons for none, the earlier one counts.

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
        """The runs that gave something, by id."""
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
                    head = _head(file, sample.run, records, source)
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


def _head(file: SampleFile, run: str | None, records: RunRecords, source: str) -> Head:
    config = file.results.get("configs", {}).get(file.task, {})
    if run is None:
        return _bare_head(file, config)
    record = records.get(run, source)
    tasks = [task for task in record.tasks if task.name == file.task]
    if len(tasks) != 1:
        names = [task.name for task in record.tasks]
        raise RecordError(f"{source}: run {run}: tasks: {file.task!r} is not one of {names}")
    return _recorded_head(record, tasks[0])


def _recorded_head(record: RunRecord, task: TaskRecord) -> Head:
    ablation = next((note for note in record.notes if note.startswith("ablation")), "")
    return Head(
        task=CellTask.model_validate(task.model_dump(exclude={"answered", "cost"})),
        model=CellModel(
            id=model_id(record.model),
            revision=record.revision,
            architecture=record.architecture,
            note=record.model_note,
            template_sha256=record.template_sha256 or None,
            system_prompt=record.system_prompt,
        ),
        defense=CellDefense(
            name=record.defense,
            settings={
                name: public_name(value) if isinstance(value, str) else value
                for name, value in record.settings.items()
            },
            direction_sha256=record.direction_sha256,
            answer_version=record.answer_version,
        ),
        dtype=record.dtype,
        attention=record.attention,
        seed=record.seed,
        ablation=ablation or _control(record),
        run=RunSource(
            id=record.id,
            recorded=True,
            started=record.started,
            finished=record.finished,
            command=public_command(record.command),
            versions=record.versions,
            git=record.git,
            hardware=record.hardware,
            batch_size=record.batch_size,
            cost=task_cost(record, task),
            cost_shared=task.cost is None and len(record.tasks) > 1,
            notes=record.notes,
        ),
    )


def _control(record: RunRecord) -> str:
    if record.defense in ABLATIONS:
        return ABLATIONS[record.defense]
    if record.settings.get("direction") == "random" or record.settings.get("random_seed") is not None:
        return ABLATIONS["random"]
    return ""


def task_cost(record: RunRecord, task: TaskRecord) -> Cost:
    """What one task of a run cost; where only the run's cost is known, its share by number of answers."""
    if task.cost is not None or len(record.tasks) == 1:
        return task.cost or record.cost
    share = task.answered / max(1, sum(other.answered for other in record.tasks))
    whole = record.cost
    return Cost(
        seconds=whole.seconds * share,
        samples=task.answered,
        timed=None if whole.timed is None else round(whole.timed * share),
        reused=round(whole.reused * share),
        tokens_in=round(whole.tokens_in * share),
        tokens_out=round(whole.tokens_out * share),
        captions_made=round(whole.captions_made * share),
        captions_reused=round(whole.captions_reused * share),
        price=None if whole.price is None else whole.price * share,
    )


def _bare_head(file: SampleFile, config: Mapping[str, Any]) -> Head:
    """What lmms-eval's own results file tells of a model that is not ours."""
    results = file.results
    settings = results.get("config", {})
    facts = (config.get("metadata") or {}).get("shiftdc") or {}
    items = facts.get("items") or results.get("n-samples", {}).get(file.task, {}).get("original")
    if not isinstance(items, int):
        raise RecordError(f"{file.path}: its results file does not say how many items {file.task} has")
    model = str(results.get("model_name") or settings.get("model") or "")
    if not model:
        raise RecordError(f"{file.path}: its results file names no model")
    return Head(
        task=CellTask(
            name=file.task,
            version=str(results.get("versions", {}).get(file.task, "") or "unknown"),
            dataset=str(facts.get("dataset", "")),
            revision=str(facts.get("revision", "")),
            benign=bool(facts.get("benign", False)),
            utility=facts.get("utility"),
            items=items,
            generation=dict(config.get("generation_kwargs") or {}),
            score="mme" if facts.get("score") == "mme" else "mean",
            notes=list(facts.get("notes", [])),
        ),
        model=CellModel(id=model_id(model), revision="", architecture=str(settings.get("model", ""))),
        defense=CellDefense(name="none"),
        dtype="",
        attention="",
        seed=int(settings.get("random_seed") or 0),
        ablation="",
        run=RunSource(
            id=file.date,
            recorded=False,
            versions={"lmms_eval": str(results.get("lmms_eval_version", ""))},
            git=str(results.get("git_hash") or ""),
            notes=[
                "answered by another lmms-eval model: revision, dtype, hardware and cost are not recorded"
            ],
        ),
    )


def model_id(model: str) -> str:
    """A model's name in the characters of a cell's model id."""
    return re.sub(r"[^A-Za-z0-9._+:@=,/-]+", "_", public_name(model)).lstrip("._+:@=,/-") or "model"


def public_name(model: str) -> str:
    """A model id as it may be published: of a folder only its name."""
    local = model.startswith(("/", "~", ".")) or "\\" in model or re.match(r"[A-Za-z]:", model)
    return re.split(r"[/\\]", model.rstrip("/\\"))[-1] if local else model


def public_command(command: str) -> str:
    """A command line as it may be published: of absolute paths only the last part."""
    return re.sub(r"(?<![\w.:/~])[~]?/(?:[^\s/,'\"=]+/)+(?=[^\s/,'\"=])", "PATH/", command)
