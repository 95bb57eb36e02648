"""The plugin's entry point: what lmms-eval is told at start."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.plugin import manifests as plugin

FRESH = [sys.executable, "-c"]


class _Manager:
    def _get_config(self, name: str) -> dict[str, Any]:
        return {"task": name}

    def initialize_tasks(self, include_path: Any = None, include_defaults: bool = True) -> dict[str, Any]:
        return {"figstep": {"type": "task", "yaml_path": "theirs"}}

    def _get_task_and_group(self, folder: str) -> dict[str, Any]:
        return {
            "figstep": {"type": "python_task", "yaml_path": folder},
            "figstep_tiny": {"type": "python_task", "yaml_path": folder},
        }


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`lmms_eval.tasks` as if it were imported already, with a small TaskManager."""
    module = ModuleType(plugin.TASKS_MODULE)
    module.TaskManager = type("TaskManager", (_Manager,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, plugin.TASKS_MODULE, module)
    return module


def test_all_model_ids_are_offered_with_a_chat_class(loaded: ModuleType) -> None:
    found = {manifest.model_id: manifest.chat_class_path for manifest in plugin.manifests()}
    assert found == {
        "shiftdc_llava": "shiftdc_eval.plugin.adapter.ShiftDCLlava",
        "shiftdc_vlm": "shiftdc_eval.plugin.adapter.ShiftDCVlm",
        "shiftdc_server": "shiftdc_eval.plugin.adapter.ShiftDCServer",
    }


def test_our_tasks_are_added_and_a_name_lmms_eval_knows_wins(loaded: ModuleType) -> None:
    plugin.manifests()
    index = loaded.TaskManager().initialize_tasks()
    assert index["figstep"]["yaml_path"] == "theirs"
    assert index["figstep_tiny"] == {"type": "task", "yaml_path": plugin.TASKS_FOLDER}


def test_patching_twice_wraps_once(loaded: ModuleType) -> None:
    plugin.manifests()
    once = loaded.TaskManager.initialize_tasks
    plugin.manifests()
    assert loaded.TaskManager.initialize_tasks is once


def test_a_failure_to_add_tasks_still_offers_the_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("lmms-eval has changed")

    monkeypatch.setattr(plugin, "extend_task_manager", broken)
    assert len(plugin.manifests()) == 3


def test_the_entry_point_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time\n"
        "import lmms_eval.models.registry_v2\n"
        "assert len([f for f in sys.meta_path if type(f).__name__ == '_TasksFinder']) == 1\n"
        "before, start = set(sys.modules), time.perf_counter()\n"
        "for name in [n for n in sys.modules if n.startswith('shiftdc_eval')]: del sys.modules[name]\n"
        "import shiftdc_eval.plugin.manifests as m; m.manifests()\n"
        "print(time.perf_counter() - start)\n"
        "print(sorted(n for n in set(sys.modules) - before if not n.startswith('shiftdc_eval')))\n"
        "assert 'lmms_eval.tasks' not in sys.modules\n"
    )
    done = subprocess.run([*FRESH, code], capture_output=True, text=True, check=True)
    seconds, heavy = done.stdout.strip().splitlines()[-2:]
    assert float(seconds) < 0.1
    assert heavy == "[]"


def test_the_module_can_be_imported_before_lmms_eval() -> None:
    code = "import shiftdc_eval.plugin.manifests as m; print(len(m.manifests()))"
    done = subprocess.run([*FRESH, code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("3", "")


def test_lmms_evals_command_ends_our_errors_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ModuleType("lmms_eval.__main__")
    command.traceback = traceback  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lmms_eval.__main__", command)
    monkeypatch.setenv("MY_TOKEN", "canary4711")
    plugin._end_wrong_input_in_one_line()
    try:
        raise ConfigError("alpha=canary4711 is wrong")
    except ConfigError:
        with pytest.raises(SystemExit) as stop:
            command.traceback.print_exc()
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "shiftdc-eval: alpha=*** is wrong\n")
    plugin._end_wrong_input_in_one_line()
    assert command.traceback is not traceback


@pytest.mark.slow
def test_the_real_command_lists_our_tasks_from_any_folder_and_the_hook_has_stepped_aside(
    tmp_path: Path,
) -> None:
    code = (
        "import runpy, sys\n"
        "command, *sys.argv[1:] = sys.argv[1:]\n"
        "try: runpy.run_path(command, run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code\n"
        "import lmms_eval.tasks as t\n"
        "assert not [f for f in sys.meta_path if type(f).__name__ == '_TasksFinder']\n"
        "assert t.TaskManager.initialize_tasks._shiftdc\n"
        "assert type(t.__spec__.loader).__name__ != '_PatchingLoader'\n"
        "only = t.TaskManager(include_defaults=False)\n"
        "assert only.task_index['figstep']['type'] == 'task'\n"
        "print('fine')\n"
    )
    command = Path(sys.executable).with_name("lmms-eval")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LMMS_EVAL")}
    done = subprocess.run(
        [*FRESH, code, command, "--tasks", "list"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    lines = [line.strip(" -") for line in (done.stdout + done.stderr).splitlines()]
    assert {"figstep", "figstep_tiny", "figstep_benign", "mme"} <= set(lines)
    assert "fine" in lines, done.stderr
