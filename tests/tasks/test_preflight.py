"""What is wrong with data and judges is known before torch or lmms-eval is imported, all problems at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch
from urllib.error import URLError

import pytest

from shiftdc_eval.tasks.preflight import problems, tasks_of

from .conftest import any_font

GRID = [
    *("figstep", "mm_safetybench_sd", "mm_safetybench_typo", "mm_safetybench_sd_typo"),
    *("mm_safetybench_text_only", "xstest_unsafe", "figstep_benign", "xstest_safe", "mossbench"),
    *("shiftdc_mme", "shiftdc_mmvet"),
]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHIFTDC_FONT", str(any_font()))
    monkeypatch.setenv("SHIFTDC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SHIFTDC_JUDGES", raising=False)


def test_groups_are_their_tasks_and_other_names_stand_for_themselves() -> None:
    assert tasks_of("shiftdc_grid") == GRID
    assert tasks_of("figstep_tiny") == ["figstep_tiny"]
    assert tasks_of("mmmu_val") == ["mmmu_val"]


def test_whole_data_and_tasks_of_others_have_no_problems(mini_data: Path) -> None:
    assert problems(["shiftdc_grid", "mm_safetybench_tiny", "toy_vqa", "mmmu_val"]) == []


def test_all_problems_are_told_at_once_one_line_each(mini_data: Path) -> None:
    (mini_data / "xstest/xstest_prompts.csv").write_bytes(b"id,prompt,type,label\n1,It\x92s a test,a,safe\n")
    (mini_data / "mossbench/images/2.webp").unlink()
    (mini_data / "mme/MME_Benchmark/count/0001.txt").write_text("Is it?\n")
    (mini_data / "mmvet/mm-vet.json").write_text("{")
    found = problems(["shiftdc_grid"], judges=["keyword_robst"])
    assert len(found) == 5
    assert "unknown judge 'keyword_robst'; nearest: keyword_robust" in found[0]
    assert found[1].endswith("xstest_prompts.csv, line 2: not UTF-8 (byte 0x92); save the file as UTF-8")
    assert "mossbench: the images of 1 of 3 items are missing, the first is" in found[2]
    assert "0001.txt, line 1: expected a question, a tab and an answer" in found[3]
    assert "mm-vet.json: not readable as JSON" in found[4]
    assert not any("\n" in line for line in found)


def test_a_limit_needs_the_images_of_its_items_alone(mini_data: Path) -> None:
    (mini_data / "mmvet/images/v1_2.png").unlink()
    assert problems(["shiftdc_mmvet"], limit=2) == []
    assert "v1_2.png" in problems(["shiftdc_mmvet"], limit=3)[0]


def test_missing_data_says_what_to_put_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHIFTDC_DATA", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    with (
        patch("urllib.request.urlopen", side_effect=URLError("no network")),
        patch("huggingface_hub.HfApi.dataset_info", side_effect=OSError("no route to host")),
    ):
        found = problems(["figstep", "shiftdc_mme", "mossbench", "mm_safetybench"])
    assert [line.partition(":")[0] for line in found] == ["figstep", "mme", "mossbench", "mm_safetybench"]
    for line, benchmark in zip(found, ("figstep", "mme", "mossbench", "mm_safetybench"), strict=True):
        assert line.endswith(f"into {tmp_path}/{benchmark}/")
    monkeypatch.setenv("SHIFTDC_DATA", str(tmp_path / "gone"))
    assert problems(["figstep"]) == [
        f"SHIFTDC_DATA={tmp_path}/gone is not a folder; set it to the folder that holds figstep/"
    ]


def test_a_table_of_the_hub_is_not_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SHIFTDC_DATA", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with (
        patch("huggingface_hub.HfApi.dataset_info") as asked,
        patch("datasets.load_dataset", side_effect=AssertionError("downloaded")),
    ):
        asked.return_value.sha = "f" * 40
        assert problems(["shiftdc_mme", "shiftdc_mmvet", "mossbench", "mm_safetybench_sd"]) == []
    assert {call.args[0].partition("/")[2] for call in asked.call_args_list} == {
        *("MME", "MMVet", "MOSSBench", "MM-SafetyBench")
    }


def test_a_csv_benchmark_and_its_judge_are_checked(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("")
    line = f"folder:path={tmp_path},kind=benign"
    assert problems([line]) == [
        f"{tmp_path}/items.csv: the file is empty; line 1 must name the columns image, prompt"
    ]
    assert "no judge 'nope'; `shiftdc-eval judges` lists them" in problems([f"{line},judge=nope"])[0]
    assert "did you mean keyword_robust?" in problems([f"{line},judge=keyword_robst"])[0]


def test_a_local_judges_model_that_is_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with patch("huggingface_hub.HfApi.model_info", side_effect=OSError("no route to host")):
        (line,) = problems(["toy_vqa"], judges=["local_harmbench:model=no-such/judge"])
    assert line.startswith("judge model 'no-such/judge' (revision main) cannot be loaded: no route to host")


def test_neither_torch_nor_lmms_eval_is_imported(mini_data: Path) -> None:
    code = (
        "import json, sys; from shiftdc_eval.tasks.preflight import problems; "
        "found = problems(['shiftdc_grid'], judges=['keyword_gcg']); "
        "print(json.dumps([found, [n for n in ('torch', 'lmms_eval', 'datasets') if n in sys.modules]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], []]
