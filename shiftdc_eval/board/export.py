"""The board in other formats: Every Eval Ever records and the hub's `.eval_results` files.

Sources: github.com/evaleval/every_eval_ever, eval.schema.json version 0.2.1 (commit 0666632);
huggingface.co/docs/hub/eval-results, as `huggingface_hub.EvalResultEntry` reads it.
"""

from __future__ import annotations

import json
import re
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from shiftdc_eval.board.build import index_of
from shiftdc_eval.board.cell import Cell, JudgeColumn, slug
from shiftdc_eval.board.index import IndexCell, Measure, lower_is_better
from shiftdc_eval.board.render.format import METRIC_NAMES, RATES
from shiftdc_eval.core.json_files import canonical, write_text
from shiftdc_eval.core.statistics import CONFIDENCE, RESAMPLES

SCHEMA_VERSION = "0.2.1"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
MME_MAXIMUM = 200
"""Points per subtask: 100 for accuracy and 100 for paired accuracy."""


def export(cells: Sequence[Cell], out: Path) -> list[Path]:
    """Write both formats; returns the files, sorted."""
    index = index_of(cells, [])
    by_path = {cell.path: cell for cell in cells}
    texts: dict[str, str] = {}
    hub: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in index.cells:
        cell = by_path[entry.path]
        if any(measure.value is not None for measure in entry.measures):
            texts[f"every_eval_ever/{every_eval_ever_path(cell)}"] = canonical(every_eval_ever(cell, entry))
        if entries := hub_entries(cell, entry):
            hub[f"hub/{slug(cell.model.id)}/.eval_results/{cell.task.name}.yaml"] += entries
    texts |= {name: yaml.safe_dump(entries, sort_keys=True, width=100) for name, entries in hub.items()}
    for name, text in texts.items():
        write_text(out / name, text)
    return sorted(out / name for name in texts)


def every_eval_ever_path(cell: Cell) -> str:
    """`data/<benchmark>/<developer>/<model>/<uuid>.json`, the uuid derived from the cell's path."""
    developer, _, name = cell.model.id.rpartition("/")
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"shiftdc-eval/cells/{cell.path}")
    return f"data/{cell.task.name}/{slug(developer or 'unknown')}/{slug(name)}/{identity}.json"


def every_eval_ever(cell: Cell, entry: IndexCell) -> dict[str, Any]:
    """One record of the Every Eval Ever schema: a cell with all its judges."""
    run = cell.runs[-1]
    when = epoch(run.finished)
    versions = {name: version for each in cell.runs for name, version in each.versions.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{cell.task.name}/{cell.model.id}/{entry.path.rsplit('/', 1)[1][:-5]}/{when}",
        "retrieved_timestamp": when,
        **({"evaluation_timestamp": epoch(run.started)} if run.started else {}),
        "source_metadata": {
            "source_name": "shiftdc-eval",
            "source_type": "evaluation_run",
            "source_organization_name": "shiftdc-eval",
            "evaluator_relationship": "third_party",
            "additional_details": {"cell": f"cells/{entry.path}"},
        },
        "eval_library": {
            "name": "lmms_eval",
            "version": versions.get("lmms-eval") or versions.get("lmms_eval") or "unknown",
            "additional_details": details(versions),
        },
        "model_info": {
            "name": cell.model.id,
            "id": cell.model.id,
            **({"developer": cell.model.id.split("/")[0]} if "/" in cell.model.id else {}),
            "additional_details": details(
                {
                    "revision": cell.model.revision,
                    "architecture": cell.model.architecture,
                    "note": cell.model.note,
                    "dtype": cell.dtype,
                    "defense": cell.defense.name,
                    "defense_settings": json.dumps(cell.defense.settings, sort_keys=True),
                    "direction_sha256": cell.defense.direction_sha256 or "",
                    "seed": cell.seed,
                }
            ),
        },
        "evaluation_results": [
            _result(cell, entry, measure) for measure in entry.measures if measure.value is not None
        ],
    }


def _result(cell: Cell, entry: IndexCell, measure: Measure) -> dict[str, Any]:
    rate = measure.metric in RATES
    column = next(column for column in cell.judges if column.key == measure.judge)
    uncertainty: dict[str, Any] = {"num_samples": measure.n}
    if measure.low is not None and measure.high is not None:
        uncertainty["confidence_interval"] = {
            "lower": measure.low,
            "upper": measure.high,
            "confidence_level": CONFIDENCE,
            "method": "Wilson, clustered by question" if rate else "bootstrap over questions",
        }
    if not rate:
        uncertainty["num_bootstrap_samples"] = RESAMPLES
    return {
        "evaluation_name": f"{cell.task.name} v{cell.task.version}: {METRIC_NAMES[measure.metric]}",
        "source_data": source_data(cell),
        "metric_config": {
            "evaluation_description": f"{METRIC_NAMES[measure.metric]} by judge {judge_name(measure)}",
            "lower_is_better": lower_is_better(measure.metric),
            "score_type": "continuous",
            "min_score": 0.0,
            "max_score": 1.0 if rate else maximum(cell, column),
            **judging(column),
        },
        "score_details": {
            "score": measure.value,
            "details": details(
                {
                    "unscored": measure.unscored,
                    "bound_all_unscored_safe": measure.bound_low,
                    "bound_all_unscored_unsafe": measure.bound_high,
                    "items": f"{entry.answered} of {entry.items}",
                    "not_ranked": "; ".join(entry.not_ranked),
                }
            ),
            "uncertainty": uncertainty,
        },
        "generation_config": {
            "generation_args": {"execution_command": entry.command} if entry.command else {},
            "additional_details": details(cell.task.generation),
        },
    }


def judge_name(measure: Measure) -> str:
    """A judge with the models behind it."""
    return f"{measure.judge} (model {', '.join(measure.models)})" if measure.models else measure.judge


def judging(column: JudgeColumn) -> dict[str, Any]:
    """The judge in the schema, which asks for the prompt; a cell holds only its hash."""
    facts = details({"judge": column.name, "fingerprint": column.fingerprint, "rubric_sha256": column.rubric})
    if not column.models:
        return {"additional_details": facts}
    prompt = f"sha256 {column.rubric}" if column.rubric else f"part of the fingerprint {column.fingerprint}"
    return {
        "llm_scoring": {
            "judges": [{"model_info": {"name": model, "id": model}} for model in column.models],
            "input_prompt": f"rubric of {column.name} in shiftdc-eval, {prompt}",
            "additional_details": facts,
        }
    }


def maximum(cell: Cell, column: JudgeColumn) -> float:
    """The maximal score: MME's by its subtasks, else the highest in the cell."""
    if cell.task.score == "mme":
        group = cell.samples.groups.get("subtask")
        return float(MME_MAXIMUM * (len(group.values) if group else 1))
    if cell.task.score == "percent":
        return 100.0
    return max(1.0, *(score for score in column.verdicts if isinstance(score, float)))


def source_data(cell: Cell) -> dict[str, Any]:
    """The source of the items."""
    task = cell.task
    facts = {"revision": task.revision, "task_version": task.version, "dataset": task.dataset}
    source: dict[str, Any] = {"source_type": "other"}
    if HUB_ID.fullmatch(task.dataset):
        source = {"source_type": "hf_dataset", "hf_repo": task.dataset, "samples_number": task.items}
    elif re.fullmatch(r"(https://)?github\.com/\S+", task.dataset):
        source = {"source_type": "url", "url": [f"https://{task.dataset.removeprefix('https://')}"]}
    return {"dataset_name": task.name, **source, "additional_details": details(facts)}


def hub_entries(cell: Cell, entry: IndexCell) -> list[dict[str, Any]]:
    """Entries for the model's repository: complete, rankable cells of hub models on hub datasets."""
    usable = not entry.not_ranked and entry.recorded
    if not usable or not HUB_ID.fullmatch(cell.model.id) or not HUB_ID.fullmatch(cell.task.dataset):
        return []
    dataset = {"id": cell.task.dataset, "task_id": cell.task.name}
    if re.fullmatch(r"[0-9a-f]{40}", cell.task.revision):
        dataset["revision"] = cell.task.revision
    date = {"date": cell.runs[-1].finished} if cell.runs[-1].finished else {}
    entries = []
    for measure in entry.measures:
        if measure.value is None:
            continue
        rate = measure.metric in RATES
        notes = (
            f"{METRIC_NAMES[measure.metric]}{', %' if rate else ''}; judge {judge_name(measure)}; "
            f"defense {entry.defense}; shiftdc-eval cells/{entry.path}"
        )
        value = round(100 * measure.value, 2) if rate else measure.value
        entries.append({"dataset": dataset, "value": value, **date, "notes": notes})
    return entries


def details(values: Mapping[str, object]) -> dict[str, str]:
    """Values as strings, which the schema requires; without empty ones."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return {name: text for name, text in texts.items() if text not in ("", "null")}


def epoch(when: str) -> str:
    """An ISO time as seconds since 1970; `0` when unknown."""
    if not when:
        return "0"
    moment = datetime.fromisoformat(when)
    return str(int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()))
