"""Builds the run record: model, settings, cost and declared caveats."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from shiftdc_eval.backbones import Backbone
from shiftdc_eval.core import provenance
from shiftdc_eval.core.records import RunRecord, TaskRecord
from shiftdc_eval.defenses import DEFENSES, Defense
from shiftdc_eval.defenses.directions import normalised
from shiftdc_eval.plugin.arguments import AdapterArguments
from shiftdc_eval.plugin.requests import Sample
from shiftdc_eval.plugin.run_record import Tally


def run_record(
    run_id: str,
    started: datetime,
    arguments: AdapterArguments,
    defense: Defense,
    backbone: Backbone,
    tasks: list[TaskRecord],
    tally: Tally,
    *,
    settings: dict[str, Any],
    direction_sha256: str | None,
    batch_size: int,
    command: str,
) -> RunRecord:
    """The record of a run that has just ended.

    Args:
        run_id: as in every sample row of the run.
        started: when.
        arguments: the model arguments.
        defense: what answered.
        backbone: the model.
        tasks: one record a task.
        tally: answers and cost of all processes.
        settings: the defense's settings with every default filled in.
        direction_sha256: hash of the direction that was used.
        batch_size: at the end of the run.
        command: the command that makes these answers again; empty: this process's own.
    """
    record = RunRecord(
        id=run_id,
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        model=backbone.name,
        revision=backbone.revision,
        architecture=backbone.architecture,
        model_note=backbone.note,
        defense=arguments.defense,
        settings=settings,
        direction_sha256=direction_sha256,
        template_sha256=backbone.template_sha256,
        system_prompt=arguments.system_prompt,
        dtype=str(backbone.dtype).removeprefix("torch."),
        attention=backbone.attention,
        engine=backbone.engine,
        batch_size=batch_size,
        seed=arguments.seed,
        tasks=tasks,
        cost=tally.cost(),
        command=command or provenance.command_line(),
        versions=provenance.versions(),
        git=provenance.git_state(),
        hardware=backbone.hardware,
        plugins=plugins(arguments.defense),
        answer_version=defense.answer_version,
        extra={**_facts(tally), **_served(backbone)},
        notes=notes(tally, arguments.ablation, defense.control),
    )
    return RunRecord.model_validate(provenance.redacted(record.model_dump()))


def notes(tally: Tally, ablation: str, control: str = "") -> list[str]:
    """Caveats to declare: ablation or control, leakage, untimed answers, and notes on answers."""
    total = sum(tally.answered.values())
    found = [f"ablation: {ablation}"] if ablation else [f"control: {control}"] if control else []
    if tally.leaked:
        found.append(f"leakage: {tally.leaked} items stand in the contrast set of the direction")
    if tally.timed < total:
        found.append(
            f"timing: {total - tally.timed} of {total} answers rest on work of other hardware and have no seconds"
        )
    return [*found, *(f"{note}: {count} of {total} answers" for note, count in sorted(tally.notes.items()))]


def _facts(tally: Tally) -> dict[str, Any]:
    """What a detector scored, and requests in which a decoder layer was edited, where the engine counts them."""
    edits = {str(layer): count for layer, count in sorted(tally.edits.items())}
    facts = {"edited_requests_by_layer": edits, "detector_by_task": tally.detections()}
    return {name: found for name, found in facts.items() if found}


def _served(backbone: Backbone) -> dict[str, Any]:
    """How often a server named which model as the one that replied."""
    found: dict[str, int] = getattr(backbone, "served_as", {})
    return {"served_as": dict(sorted(found.items()))} if found else {}


def plugins(defense: str) -> dict[str, str]:
    """Distribution and version of a defense that another installed package provides; empty for ours."""
    return {defense: origin} if (origin := DEFENSES.distribution(defense)) else {}


def leaked_items(samples: Sequence[Sample], fitted_on: set[str]) -> int:
    """Items of this process that a direction was fitted on, given the normalised texts of its contrast set."""
    asked = [sample for sample in samples if not sample.padding]
    return len({(s.task, s.doc_id) for s in asked if {normalised(s.question), s.words} & fitted_on})
