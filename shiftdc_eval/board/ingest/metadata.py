"""Task, model, defense and run of a cell: from the run record or, for other lmms-eval models, from the results file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shiftdc_eval.board.cell import (
    CellDefense,
    CellModel,
    CellTask,
    RunSource,
    cell_key,
    cell_path,
    telling_engine,
)
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.records import Cost, RunRecord, TaskRecord
from shiftdc_eval.core.results_folder import RunRecords, SampleFile

ABLATIONS: Mapping[str, str] = {"random": "random direction control"}
"""Control defenses, which never rank."""
ABSOLUTE = re.compile(
    r"(?<![\w.:/~])(?:file:(?://)?)?(?:~[\w.-]*)?/(?:[^\s/,'\"=]+/)+(?=[^\s/,'\"=])"
    r"|(?<!\w)[A-Za-z]:\\(?:[^\s\\,'\"=]+\\)+(?=[^\s\\,'\"=])"
)
"""The folders of an absolute path, or of one in somebody's home."""
OURS = "shiftdc_"
"""How the names of our lmms-eval models start."""


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
        engine = telling_engine(self.dtype, [self.run.engine])
        key = cell_key(self.task, self.model, self.defense, self.dtype, self.attention, engine, self.seed)
        return cell_path(key)


def head_of(file: SampleFile, run: str | None, records: RunRecords, source: str) -> Head:
    """The head of the cell that a row belongs to.

    Args:
        file: the row's samples file.
        run: the run that the row names; None where a model other than ours answered.
        records: finds run records.
        source: file and line, for error messages.
    Raises:
        RecordError: run record or results file are missing, or do not say enough.
    """
    results = file.results  # refused where it is missing: that run did not finish saving
    if run is None:
        return _bare_head(file, results)
    record = records.get(run, source)
    tasks = [task for task in record.tasks if task.name == file.task]
    if len(tasks) != 1:
        names = [task.name for task in record.tasks]
        raise RecordError(f"{source}: run {run}: tasks: {file.task!r} is not one of {names}")
    return _recorded_head(record, tasks[0])


def _recorded_head(record: RunRecord, task: TaskRecord) -> Head:
    ablation = next((note for note in record.notes if note.startswith(("ablation", "control"))), "")
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
            plugins=record.plugins,
            git=record.git,
            hardware=record.hardware,
            engine=record.engine,
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
    """Cost of one task of a run; where only the run's cost is known, its share by number of answers."""
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
        captions_made=None,
        captions_reused=None,
        price=None if whole.price is None else whole.price * share,
    )


def _bare_head(file: SampleFile, results: Mapping[str, Any]) -> Head:
    """The head from lmms-eval's results file, for other lmms-eval models."""

    def part(*names: str) -> Mapping[str, Any]:
        found: Any = results
        for at, name in enumerate(names, 1):
            found = found.get(name) or {}
            if not isinstance(found, dict):
                raise RecordError(f"{file.path}: its results file: {'.'.join(names[:at])} is no object")
        return dict(found)

    settings = part("config")
    facts = part("configs", file.task, "metadata", "shiftdc")
    items = facts.get("items") or part("n-samples", file.task).get("original")
    if not isinstance(items, int):
        raise RecordError(f"{file.path}: its results file does not say how many items {file.task} has")
    seed = settings.get("random_seed") or 0
    if not isinstance(seed, int):
        raise RecordError(f"{file.path}: its results file: config.random_seed is {seed!r}, no whole number")
    model = str(results.get("model_name") or settings.get("model") or "")
    if not model:
        raise RecordError(f"{file.path}: its results file names no model")
    if str(settings.get("model", "")).startswith(OURS):
        raise RecordError(
            f"{file.path}: {settings['model']} answered, but its rows name no run: they came out of lmms-eval's "
            "response cache; run it without --use_cache (the journal reuses finished answers and says which)"
        )
    return Head(
        task=CellTask(
            name=file.task,
            version=str(part("versions").get(file.task) or "unknown"),
            dataset=str(facts.get("dataset", "")),
            revision=str(facts.get("revision", "")),
            benign=bool(facts.get("benign", False)),
            utility=facts.get("utility"),
            items=items,
            generation=dict(part("configs", file.task, "generation_kwargs")),
            score=facts["score"] if facts.get("score") in ("percent", "mme") else "mean",
            notes=facts.get("notes", []),
        ),
        model=CellModel(id=model_id(model), revision="", architecture=str(settings.get("model", ""))),
        defense=CellDefense(name="none"),
        dtype="",
        attention="",
        seed=seed,
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
    local = model.startswith(("/", "~", ".", "file:")) or "\\" in model or re.match(r"[A-Za-z]:", model)
    return re.split(r"[/\\]", model.rstrip("/\\"))[-1] if local else model


def public_command(command: str) -> str:
    """A command line as it may be published: of absolute paths only the last part."""
    return ABSOLUTE.sub("PATH/", command)
