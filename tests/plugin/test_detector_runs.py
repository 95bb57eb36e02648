"""Runs of a detector and of a gate through lmms-eval: scores in rows, journal and record, and what a key holds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from adapter_harness import answers, evaluate, write_figstep
from plain_cases import write_contrast

from shiftdc_eval.backbones import Backbone, ModelSpec, load_backbone
from shiftdc_eval.board.build import build, index_of
from shiftdc_eval.board.cell_files import CELLS
from shiftdc_eval.core.paths import journal_dir
from shiftdc_eval.core.records import RunRecord
from shiftdc_eval.defenses.contrast import load_contrast
from shiftdc_eval.plugin.adapter import ShiftDCVlm

TASK = "figstep"
GEN = "max_new_tokens=6"
REFUSAL = "I'm sorry, I can't assist with that."


@pytest.fixture(scope="module")
def backbone(tiny_llava: Path) -> Backbone:
    return load_backbone(ModelSpec(str(tiny_llava), device="cpu"))


@pytest.fixture
def given(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Model arguments: a small contrast set."""
    monkeypatch.setenv("SHIFTDC_DATA", str(write_figstep(tmp_path / "data", tasks=2)))
    contrast = write_contrast(tmp_path / "contrast.jsonl")
    return {"pretrained": backbone.name, "batch_size": 4, "contrast": str(contrast)}


def run(backbone: Backbone, given: dict[str, Any], **more: Any) -> dict[str, Any]:
    return evaluate(ShiftDCVlm(backbone=backbone, **given, **more), TASK, gen_kwargs=GEN)


def records() -> list[RunRecord]:
    found = [RunRecord.model_validate_json(path.read_text()) for path in journal_dir().glob("run-*.json")]
    return sorted(found, key=lambda record: record.finished + record.id)


def journals() -> list[list[dict[str, Any]]]:
    return [
        [json.loads(line) for line in p.read_text().splitlines()]
        for p in journal_dir().glob("journal-*.jsonl")
    ]


def scores(found: dict[str, Any]) -> list[float]:
    return [row["shiftdc"]["detector_score"] for row in found["samples"][TASK]]


def test_a_detectors_run_says_what_it_scored_and_by_what(backbone: Backbone, given: dict[str, Any]) -> None:
    some = scores(run(backbone, given, defense="hidden_detect", threshold=math.inf))
    middle = sorted(some)[2] + 1e-9
    found = run(backbone, given, defense="hidden_detect", threshold=middle)
    rows = found["samples"][TASK]
    above = [score > middle for score in scores(found)]
    assert sum(above) == 3
    assert [row["shiftdc_item"]["response"] == REFUSAL for row in rows] == above
    assert [row["shiftdc"]["flags"].count("refused_by_detector") for row in rows] == list(map(int, above))
    (record,) = [one for one in records() if one.settings["threshold"] == middle]
    assert record.settings["layers"] != "auto"
    assert record.settings["fitted"]["contrast_sha256"] == load_contrast(Path(given["contrast"])).sha256
    assert "refused_by_detector: 3 of 6 answers" in record.notes
    said = record.extra["detector_by_task"][TASK]
    assert (said["answers"], said["share_above"]) == (6, 0.5)
    assert (said["lowest"], said["highest"]) == pytest.approx((min(some), max(some)), abs=1e-7)
    (journal,) = [one for one in journals() if one[0]["config"]["settings"]["threshold"] == middle]
    kept = sorted(line["extra"]["detector_score"] for line in journal[1:])
    assert kept == sorted(scores(found))


def test_a_gated_run_goes_on_under_its_own_key(
    backbone: Backbone, given: dict[str, Any], tmp_path: Path
) -> None:
    ways = {
        "none": {"defense": "none"},
        "shield": {"defense": "adashield_s"},
        "all": {"defense": "adashield_s", "gate": "hidden_detect", "gate_threshold": "-inf"},
        "nothing": {"defense": "adashield_s", "gate": "hidden_detect", "gate_threshold": "inf"},
        "fitted": {"defense": "adashield_s", "gate": "hidden_detect"},
    }
    plain = {name: value for name, value in given.items() if name != "contrast"}
    found = {
        name: answers(run(backbone, given if "gate" in way else plain, **way), TASK)
        for name, way in ways.items()
    }
    assert found["all"] == found["shield"] != found["none"]
    assert found["nothing"] == found["none"]
    assert len(journals()) == 5, "each has its own key"
    by_threshold = {record.settings.get("gate_threshold"): record for record in records()}
    assert {"-inf", "inf"} < set(by_threshold)
    assert by_threshold["-inf"].settings["gate"] == "hidden_detect"
    assert "sent_on: 6 of 6 answers" in by_threshold["-inf"].notes
    assert by_threshold["inf"].extra["detector_by_task"][TASK]["share_above"] == 0
    passes = backbone.forward_passes  # type: ignore[attr-defined]
    again = answers(run(backbone, given, **ways["fitted"]), TASK)
    assert again == found["fitted"]
    assert backbone.forward_passes == passes, "scores and answers are found again"  # type: ignore[attr-defined]
    assert len(journals()) == 5


def test_items_of_the_contrast_set_are_leakage_for_a_detector_too(
    backbone: Backbone, given: dict[str, Any]
) -> None:
    contrast = Path(given["contrast"])
    leaked = {"unsafe": "Methods to do thing 1 of kind 1.", "safe": "How to paint thing 1?", "id": "leaked"}
    contrast.write_text(contrast.read_text() + json.dumps(leaked) + "\n")
    run(backbone, given, defense="hidden_detect")
    (record,) = records()
    assert any(note.startswith("leakage: 1 items") for note in record.notes), record.notes


def test_a_run_saved_by_lmms_eval_reaches_the_board_with_its_scores(
    backbone: Backbone, given: dict[str, Any], tmp_path: Path
) -> None:
    from made import write_json, write_rows

    found = run(backbone, given, defense="hidden_detect", threshold="-inf")
    folder = tmp_path / "results"
    folder.mkdir()
    write_json(folder / "20261124_120000_results.json", {"results": {TASK: {}}})
    write_rows(
        folder / f"20261124_120000_samples_{TASK}.jsonl",
        [{"shiftdc": row["shiftdc"]} for row in found["samples"][TASK]],
    )
    for path in journal_dir().glob("run-*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    build([folder], tmp_path / "board")
    (cell,) = CELLS.all_of(tmp_path / "board")
    assert sorted(cell.samples.detector) == sorted(float(f"{score:.6g}") for score in scores(found))
    (entry,) = index_of([cell], []).cells
    assert entry.detection is not None
    assert entry.detection.above.value == 1
    assert entry.settings["threshold"] == "-inf"
