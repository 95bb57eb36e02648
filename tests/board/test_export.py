"""The board in other formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from made import Made, small_grid, write_json

from shiftdc_eval import cli
from shiftdc_eval.board.build import build

REQUIRED = {
    "schema_version",
    "evaluation_id",
    "retrieved_timestamp",
    "source_metadata",
    "model_info",
    "eval_library",
    "evaluation_results",
}
"""Of the schema's version 0.2.1."""


def exported(results: Path, board: Path, out: Path) -> list[Path]:
    build([results], board)
    assert cli.main(["board", "export", str(board), "--out", str(out)]) == 0
    return sorted(path for path in out.rglob("*") if path.is_file())


def details_of(value: Any) -> list[dict[str, Any]]:
    """Every object that the schema restricts to texts."""
    found = []
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in ("additional_details", "details"):
                found.append(inner)
            found += details_of(inner)
    elif isinstance(value, list):
        for inner in value:
            found += details_of(inner)
    return found


def test_records_have_what_every_eval_ever_requires(results: Path, board: Path, tmp_path: Path) -> None:
    small_grid(results)
    files = [path for path in exported(results, board, tmp_path / "out") if path.suffix == ".json"]
    assert len(files) == 18
    for path in files:
        record = json.loads(path.read_text())
        assert set(record) >= REQUIRED
        assert set(record) <= REQUIRED | {"evaluation_timestamp"}
        assert record["retrieved_timestamp"].isdigit()
        assert {"name", "id"} <= set(record["model_info"])
        assert {"source_type", "source_organization_name", "evaluator_relationship"} <= set(
            record["source_metadata"]
        )
        for result in record["evaluation_results"]:
            assert {"evaluation_name", "source_data", "metric_config", "score_details"} <= set(result)
            config, score = result["metric_config"], result["score_details"]["score"]
            assert config["min_score"] <= score <= config["max_score"]
            assert config["lower_is_better"] is not result["evaluation_name"].endswith(": score")
            interval = result["score_details"]["uncertainty"]["confidence_interval"]
            assert interval["lower"] <= score <= interval["upper"]
        assert all(isinstance(text, str) for found in details_of(record) for text in found.values())
        folder = path.relative_to(tmp_path / "out").parts
        assert folder[:2] == ("every_eval_ever", "data")
        assert folder[3] == "org"


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [
        ("PKU-Alignment/MM-SafetyBench", "hf_dataset"),
        ("github.com/ThuCCSLab/FigStep", "url"),
        ("local", "other"),
    ],
)
def test_the_source_of_the_data_is_named_by_its_kind(
    results: Path, board: Path, tmp_path: Path, dataset: str, kind: str
) -> None:
    made = Made(run="here")
    made.write(results)
    record = made.record().model_dump()
    record["tasks"][0]["dataset"] = dataset
    write_json(results / "run-here.json", record)
    files = exported(results, board, tmp_path / "out")
    records = [json.loads(path.read_text()) for path in files if path.suffix == ".json"]
    assert records[0]["evaluation_results"][0]["source_data"]["source_type"] == kind
    assert any(path.suffix == ".yaml" for path in files) == (kind == "hf_dataset")


def test_the_hub_reads_its_file(results: Path, board: Path, tmp_path: Path) -> None:
    for defense in ("none", "shiftdc"):
        made = Made(run=defense, defense=defense, size=20)
        made.write(results)
        record = made.record().model_dump()
        record["tasks"][0] |= {"dataset": "org/data", "revision": "a" * 40}
        write_json(results / f"run-{defense}.json", record)
    files = exported(results, board, tmp_path / "out")
    (path,) = [path for path in files if path.suffix == ".yaml"]
    assert path.parts[-3:] == ("org__tiny-vlm", ".eval_results", "figstep_tiny.yaml")
    entries = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    assert [(entry.dataset_id, entry.task_id) for entry in entries] == [("org/data", "figstep_tiny")] * 2
    assert [entry.dataset_revision for entry in entries] == ["a" * 40] * 2
    assert {("defense shiftdc" in str(entry.notes)) for entry in entries} == {True, False}


def test_the_models_behind_a_judge_are_named(results: Path, board: Path, tmp_path: Path) -> None:
    judges = {"keyword": ("refusal", 0.5), "llm": ("harm", 0.5)}
    made = Made(run="here", judges=judges, judge_models={"llm": "judge-model-2026"})
    made.write(results)
    record = made.record().model_dump()
    record["tasks"][0] |= {"dataset": "org/data", "revision": "a" * 40}
    write_json(results / "run-here.json", record)
    files = exported(results, board, tmp_path / "out")
    (path,) = [path for path in files if path.suffix == ".json"]
    configs = {
        result["metric_config"]["evaluation_description"].split()[3].split("@")[0]: result["metric_config"]
        for result in json.loads(path.read_text())["evaluation_results"]
        if "judge" in result["metric_config"]["evaluation_description"]
    }
    scoring = next(config["llm_scoring"] for config in configs.values() if "llm_scoring" in config)
    assert scoring["judges"] == [{"model_info": {"name": "judge-model-2026", "id": "judge-model-2026"}}]
    assert scoring["input_prompt"]
    assert scoring["additional_details"]["judge"] == "llm"
    assert sum("llm_scoring" in config for config in configs.values()) == 1
    (yaml_path,) = [path for path in files if path.suffix == ".yaml"]
    notes = [entry["notes"] for entry in yaml.safe_load(yaml_path.read_text())]
    assert sum("(model judge-model-2026)" in note for note in notes) == 1


def test_partial_cells_stay_off_the_hub(results: Path, board: Path, tmp_path: Path) -> None:
    made = Made(run="here", items=100)
    made.write(results)
    record = made.record().model_dump()
    record["tasks"][0]["dataset"] = "org/data"
    write_json(results / "run-here.json", record)
    assert not [path for path in exported(results, board, tmp_path / "out") if path.suffix == ".yaml"]


def test_exporting_twice_gives_the_same_bytes(results: Path, board: Path, tmp_path: Path) -> None:
    small_grid(results)
    first = {path.name: path.read_bytes() for path in exported(results, board, tmp_path / "one")}
    second = {path.name: path.read_bytes() for path in exported(results, board, tmp_path / "two")}
    assert first == second


def test_a_folder_that_is_no_board_is_not_exported(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (results, tmp_path / "none"):
        assert cli.main(["board", "export", str(folder), "--out", str(tmp_path / "out")]) == 2
        assert "no board with cells" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
