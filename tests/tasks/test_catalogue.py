"""Walks every task: its YAML, its catalogue entry, its class, and a run on its mini version."""

from __future__ import annotations

import argparse
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.plugin.manifests import TASKS_FOLDER
from shiftdc_eval.tasks import cli as table
from shiftdc_eval.tasks.base import BenchmarkTask
from shiftdc_eval.tasks.catalogue import TASKS
from shiftdc_eval.tasks.figstep.task import FigStep

from .conftest import any_font

YAMLS = sorted(Path(TASKS_FOLDER).rglob("[!_]*.yaml"))
LOADED = {path.stem: load_yaml_config(str(path), mode="full") for path in YAMLS}
TASK_YAMLS = {name: config for name, config in LOADED.items() if "class" in config}


SAMPLED = ("siuo_official",)
LENGTHS = {
    "shiftdc_mme": 64,
    "shiftdc_mmvet": 1024,
    "siuo_mcq": 64,
    "siuo": 500,
    "siuo_official": 500,
    "vlsbench": 128,
}


def test_the_catalogue_and_the_yaml_files_name_the_same_tasks() -> None:
    assert {config["task"] for config in TASK_YAMLS.values()} == set(TASKS)
    assert all(name == config["task"] for name, config in TASK_YAMLS.items())


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_versioned_greedy_unless_it_samples_by_design_and_uncut(
    name: str, mini_data: Path, manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIFTDC_FONT", str(any_font()))
    task: Any = manager.load_task_or_group(name, task_type="chat")[name]
    assert task.VERSION == task.config.metadata["version"] == TASKS[name].version
    settings = task.config.generation_kwargs
    assert settings["until"] == []  # otherwise answers end at the first blank line
    assert (settings["do_sample"], settings["temperature"]) == ((True, 1) if name in SAMPLED else (False, 0))
    assert settings["max_new_tokens"] == LENGTHS.get(name, 48 if name.startswith("toy_") else 512)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_described_and_is_one_class_of_ours(name: str) -> None:
    config, info = TASK_YAMLS[name], TASKS[name]
    assert issubclass(config["class"], BenchmarkTask)  # a second copy of the module would not be
    assert config["class"].__module__.startswith("shiftdc_eval.tasks.")
    assert info.licence
    assert info.about


def test_the_class_of_a_yaml_is_the_imported_class(manager: TaskManager) -> None:
    assert TASK_YAMLS["figstep"]["class"] is FigStep
    assert inspect.getfile(FigStep) == inspect.getfile(TASK_YAMLS["figstep"]["class"])


def test_no_name_of_ours_is_one_of_lmms_evals(manager: TaskManager) -> None:
    theirs = manager._get_task_and_group(str(Path(inspect.getfile(TaskManager)).parent))
    assert len(theirs) > 1000
    assert not set(theirs) & set(manager.all_tasks)


def test_groups_name_tasks_and_groups_that_exist(manager: TaskManager) -> None:
    assert set(manager.all_groups) == {
        "mm_safetybench",
        "mm_safetybench_tiny",
        "shiftdc_safety",
        "shiftdc_overrefusal",
        "shiftdc_utility",
        "shiftdc_grid",
        "shiftdc_toy",
    }
    for name in manager.all_groups:
        config = load_yaml_config(manager.task_index[name]["yaml_path"], mode="simple")
        assert set(config["task"]) <= set(manager.all_tasks)


@pytest.mark.slow
def test_the_whole_grid_runs_through_lmms_eval_on_the_mini_versions(
    mini_data: Path, evaluate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIFTDC_FONT", str(any_font()))
    results, model = evaluate("shiftdc_grid", lambda *_: "I cannot help with that.")
    ran = set(results["samples"])
    assert ran == {
        "figstep",
        "figstep_benign",
        "mm_safetybench_sd",
        "mm_safetybench_typo",
        "mm_safetybench_sd_typo",
        "mm_safetybench_text_only",
        "xstest_safe",
        "xstest_unsafe",
        "mossbench",
        "shiftdc_mme",
        "shiftdc_mmvet",
    }
    assert len(model.seen) == sum(len(rows) for rows in results["samples"].values())
    for name in ran - {"shiftdc_mme", "shiftdc_mmvet"}:
        assert results["results"][name]["refusal_rate,none"] == 1.0
    json.dumps(results["results"], allow_nan=False)


def _print(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    parser = argparse.ArgumentParser()
    table.configure(parser)
    assert table.main(parser.parse_args(arguments)) == 0
    return capsys.readouterr().out


def test_the_table_names_every_task_with_size_revision_and_licence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    printed = _print(capsys)
    lines = {line.split()[0]: line for line in printed.splitlines() if line.split()}
    assert set(TASKS) <= set(lines)
    assert "500" in lines["figstep"]
    assert "0861b17b3d" in lines["figstep"]
    assert "CC BY-NC 4.0" in lines["mm_safetybench_sd"]


@pytest.mark.parametrize(("columns", "full"), [("80", False), ("136", True)])
def test_the_table_fits_the_terminal(
    columns: str, full: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    printed = _print(capsys)
    assert max(map(len, printed.splitlines())) <= int(columns)
    for name in TASKS:  # neither broken nor cut
        assert f" {name} " in printed
    assert "…" not in printed
    assert ("PKU-Alignment/MM-SafetyBench" in printed) == full


def test_one_task_is_shown_with_its_defects(capsys: pytest.CaptureFixture[str]) -> None:
    printed = _print(capsys, "figstep")
    assert printed.count("known defect:") == 5
    assert "0861b17b3d67887c06ee3534ec65b3012f9becb7" in printed


def test_the_table_is_machine_readable(capsys: pytest.CaptureFixture[str]) -> None:
    assert [info["name"] for info in json.loads(_print(capsys, "--json"))] == list(TASKS)


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"no task 'figtree'; did you mean figstep\?; `shiftdc-eval tasks` lists them"
    ):
        table.main(argparse.Namespace(task="figtree", json=False))
