"""Who answered: model and defense of the runs on a page, told apart by as few settings as needed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from shiftdc_eval.board.defense_labels import FITTED, distinguishing
from shiftdc_eval.board.render.format import clean
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.records import RunRecord
from shiftdc_eval.core.results_folder import RunRecords, SampleFile

BESIDES = ("revision", "dtype", "attention", "engine", "seed", "system_prompt", "template_sha256")
"""What tells runs apart besides the settings of their defense."""


@dataclass(frozen=True)
class Run:
    """Who answered a samples file."""

    model: str
    defense: str
    """Name, and the gate in front of it where there is one."""
    settings: dict[str, str] = field(default_factory=dict)
    """Settings, and what else tells runs apart, as JSON texts."""
    refusals_fail: bool = False
    """True where a refusal is the failure: over-refusal and utility tasks."""
    utility: bool = False
    """True where scores say how good answers are."""
    record: RunRecord | None = None


def run_of(file: SampleFile, run: str | None, records: RunRecords) -> Run:
    """Who answered a file, from the run record that its rows name; without one, from the file's place."""
    folder = clean(file.path.parent.name.replace("__", "/"))
    try:
        record = None if run is None else records.get(run, "")
        facts = file.results["configs"][file.task]["metadata"]["shiftdc"] if record is None else {}
    except (RecordError, KeyError, TypeError):
        record, facts = None, {}
    if record is None:
        facts = facts if isinstance(facts, dict) else {}
        benign, utility = (facts.get(name) is True for name in ("benign", "utility"))
        defense = "none (another model of lmms-eval)" if run is None else "not known: no run record"
        return Run(folder, defense, {}, benign or utility, utility)
    task = next((one for one in record.tasks if one.name == file.task), None)
    benign, utility = bool(task and task.benign), bool(task and task.utility)
    gate = record.settings.get("gate")
    settings = {name: value for name, value in record.settings.items() if name not in FITTED}
    settings |= {name: getattr(record, name) for name in BESIDES}
    return Run(
        model=clean(record.model),
        defense=clean(f"{record.defense}, gated by {gate}" if isinstance(gate, str) else record.defense),
        settings={name: json.dumps(value, ensure_ascii=False) for name, value in settings.items()},
        refusals_fail=benign or utility,
        utility=utility,
        record=record,
    )


def labels(runs: Sequence[Run]) -> list[str]:
    """A label for the defense of each run: the name, and the fewest settings that no other run of the model has."""
    siblings: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        siblings[run.model, run.defense].append(run)
    found = []
    for run in runs:
        family = siblings[run.model, run.defense]
        names = {name for one in family for name in one.settings}
        alike = [{name: one.settings.get(name, "null") for name in names} for one in family]
        known = [dict(one) for one in {tuple(sorted(one.items())) for one in alike}]
        own = {name: run.settings.get(name, "null") for name in names}
        parts = ["=".join((name, own[name].strip('"'))) for name in distinguishing(own, known)]
        found.append(clean(f"{run.defense} ({', '.join(parts)})" if parts else run.defense))
    return found
