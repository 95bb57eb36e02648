import json
import os
import random
import re
import shlex
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from adapter_harness import evaluate, manager, write_figstep
from lmms_eval.tasks import TaskManager
from tiny_models import save_tiny_llava
from warm import Warm

from shiftdc_eval.backbones.loading import revision_on_disk
from shiftdc_eval.board.build import build
from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.core.records import ANSWER_VERSION, RunRecord
from shiftdc_eval.grid import cli as grid_command
from shiftdc_eval.grid import run as grid
from shiftdc_eval.grid.file import Cell, read_grid
from shiftdc_eval.grid.tasks import require_tasks, task_facts
from shiftdc_eval.plugin.adapter import ShiftDCVlm
from shiftdc_eval.plugin.arguments import parse_pairs
from shiftdc_eval.tasks import catalogue
from shiftdc_eval.tasks.example import Source
from shiftdc_eval.tasks.figstep.task import FigStep
from shiftdc_eval.tasks.mossbench.task import MOSSBench

FILE = """
models: [{model}]
defenses:
  - none
  - {{name: shiftdc, caption_max_new_tokens: 4}}
  - {{name: shiftdc, caption_max_new_tokens: 4, alpha: 0.5, ablation: half strength}}
  - {{name: ecso, caption_max_new_tokens: 4, tell_max_new_tokens: 4}}
tasks: [figstep]
defaults: {{batch_size: 4, gen_kwargs: {{max_new_tokens: 6}}}}
overrides:
  - when: {{defense: ecso}}
    set: {{limit: 5}}
"""


@pytest.fixture
def grid_file(tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_pairs: None) -> Path:
    monkeypatch.setenv("SHIFTDC_DATA", str(write_figstep(tmp_path / "data")))
    monkeypatch.setattr("shiftdc_eval.grid.tasks._manager", [manager()])
    path = tmp_path / "grid.yaml"
    path.write_text(FILE.format(model=tiny_llava))
    return path


def records(out: Path) -> list[RunRecord]:
    return [RunRecord.model_validate_json(path.read_text()) for path in out.rglob("run-*.json")]


def run(*arguments: Any) -> int:
    from shiftdc_eval.cli import main

    return main(["grid", "run", *map(str, arguments)])


def test_a_grid_runs_every_cell_once_and_a_second_call_runs_nothing(
    grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(grid_file, "-o", out) == 0
    found = {(r.defense, r.settings.get("alpha")): r for r in records(out)}
    assert set(found) == {("none", None), ("shiftdc", 1.0), ("shiftdc", 0.5), ("ecso", None)}
    assert {r.cost.samples for r in found.values()} == {9, 5}
    assert found["ecso", None].tasks[0].answered == 5
    assert found["shiftdc", 0.5].notes == ["ablation: half strength"]
    made = {key: r.cost.captions_made for key, r in found.items()}
    assert made["shiftdc", 1.0] == 9
    assert made["shiftdc", 0.5] == 0, "captions are shared between cells"

    def shows_results(said: str) -> bool:
        words = ("keyword ASR", "figstep", "ecso", "next: shiftdc-eval board build")
        return all(word in said for word in words)

    assert shows_results(capsys.readouterr().out)
    monkeypatch.setattr(grid, "load_backbone", lambda *_: pytest.fail("a complete grid loads nothing"))
    assert run(grid_file, "-o", out) == 0
    said = capsys.readouterr().out
    assert "4 complete, 0 to run" in said
    assert shows_results(said)


def test_the_model_is_loaded_once_for_all_its_cells(
    grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    whole = grid.load_backbone
    monkeypatch.setattr(grid, "load_backbone", lambda model, _: loaded.append(model) or whole(model))
    assert run(grid_file, "-o", tmp_path / "out", "--limit", 2) == 0
    assert len(loaded) == 1


def test_a_failing_cell_does_not_stop_the_others_and_is_reported(
    grid_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # the cell's task is made to fail below, after the check of its data
    monkeypatch.setattr("shiftdc_eval.tasks.preflight.problems", lambda *_, **__: [])
    text = grid_file.read_text().replace("  - none\n", "  - none\n  - {name: shiftdc, layers: 7-9}\n")
    grid_file.write_text(text.replace("tasks: [figstep]", "tasks: [figstep, mossbench]"))

    def load(task: MOSSBench) -> Source:
        raise DataError("mossbench: no such data")

    monkeypatch.setattr(MOSSBench, "load", load)
    monkeypatch.setattr("shiftdc_eval.plugin.preflight.data_problems", lambda *_: [])  # found out too late
    out = tmp_path / "out"
    assert run(grid_file, "-o", out, "--only", "none", "--only", "layers=7-9", "--limit", 2) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "3 cells failed" in said
    assert "layers=7-9 does not fit" in said
    assert "mossbench: no such data" in said
    assert len(list(out.rglob("cell.json"))) == 1


def test_brackets_in_a_reason_stand_there_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    grid_command._print_failures({"a[/b]": "closed [/INST], none of [mme, vqa]"})
    said = " ".join(re.sub("[^ -~]", " ", capsys.readouterr().out).split())
    assert "a[/b]" in said
    assert "closed [/INST], none of [mme, vqa]" in said


def test_one_reason_for_many_cells_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    grid_command._print_failures({f"cell {i}": "cannot load" for i in range(9)} | {"other": "another"})
    said = capsys.readouterr().out
    assert said.count("cannot load") == said.count("another") == 1
    assert "cell 2" in said
    assert "cell 3" not in said
    assert "and 6 more" in said


def test_a_plan_has_a_row_for_each_defense_and_state_and_names_every_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "grid.yaml"
    path.write_text("models: [m]\ndefenses: [none, ecso]\ntasks: [one, two]\n")
    cells = list(read_grid(path).cells())
    undone = {("ecso", "two"): "not run yet"}
    grid_command._print_plan(cells, [undone.get((c.defense_label, c.task), "") for c in cells])
    said = capsys.readouterr().out.splitlines()
    rows = [[part.strip() for part in line.split("│")[1:-1]] for line in said if line.startswith("│")]
    assert sorted(rows) == [
        ["m", "ecso", "one", "0", "complete"],
        ["m", "ecso", "two", "0", "to run: not run yet"],
        ["m", "none", "all 2", "0", "complete"],
    ]
    assert "tasks: one, two" in [line.strip() for line in said]


def test_cells_of_one_model_loaded_in_two_ways_have_two_names(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(
        "models: [a, {pretrained: a, dtype: float16}, {pretrained: a, engine: transformers}]\n"
        "defenses: [none]\ntasks: [t]\n"
    )
    cells = list(read_grid(path).cells())
    labels = [cell.label for cell in cells]
    assert labels == ["a | none | t", "a(dtype=float16) | none | t", "a(engine=transformers) | none | t"]
    assert len({cell.folder for cell in cells}) == 3
    assert "pretrained=a,engine=transformers,defense=none" in cells[2].command
    # hash of 2026-11-30, when the engine was called `plain`: cells that are done are found again
    assert cells[2].digest.startswith("eec67e0f951f2b84")


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    grid_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(grid_file, "-o", tmp_path / "out", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "4 cells, 0 complete, 4 to run" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [a]\ndefenses: [none]\ntasks: [t]\nspeed: high\n", "line 4: speed: there is no such key"),
        ("models: [a]\ndefenses: [none]\ntasks: [t]\nseed: [1]\n", "no such key here; did you mean seeds?"),
        ("models: [a]\ndefenses: [none]\ntasks: [t]\nlimit: 3\n", "write it below defaults: {limit: ...}"),
        ("models: [a]\ndefenses: [none]\ntasks: []\n", "line 3: tasks: List should have at least 1"),
        (
            "models:\n  - {pretrained: a}\n  - {pretraned: b}\ndefenses: [none]\ntasks: [t]\n",
            "line 3: models.1",
        ),
        ("models: [a]\ndefenses:\n  - {alpha: 1}\ntasks: [t]\n", "line 3: defenses.0.name: Field required"),
        (
            "models: [a]\ndefenses: [none]\ntasks: [t]\ndefaults:\n  batch_size: 4\n  limit: 0\n",
            "line 6: defaults.limit",
        ),
        (
            "models:\n  - {pretrained: a, engine: quick}\ndefenses: [none]\ntasks: [t]\n",
            "line 2: models.0.engine: Input should be 'auto', 'transformers', 'vllm' or 'server'",
        ),
        (
            "models:\n  - {pretrained: a, dtype: half}\ndefenses: [none]\ntasks: [t]\n",
            "line 2: models.0.dtype: Input should be 'auto'",
        ),
        ("models: [a\n", "cannot be read"),
        ("- a\n", "Input should be a valid dictionary"),
        (
            "models: [a]\ndefenses: [none]\ntasks: [t]\ndefenses: [shiftdc]\n",
            "line 4: defenses appears twice",
        ),
        ("models: &again [*again]\ndefenses: [none]\ntasks: [t]\n", "line 1: models.0"),
        (
            "models: [a]\ndefenses: [none]\ntasks: [t]\noverrides:\n  - when: {task: tt}\n    set: {limit: 1}\n",
            "line 5: overrides.0.when.task: 'tt' is none of t",
        ),
    ],
)
def test_a_wrong_grid_file_names_line_and_entry(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_grid(path)
    assert said in str(caught.value)
    assert all(line.startswith(str(path)) for line in str(caught.value).splitlines())  # a line an entry


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'models = ["a"]\ndefenses = ["none"]\ntasks = ["t"]\nspeed = "high"\n',
            "line 4: speed: there is no such key",
        ),
        ('models = ["a"]\ntasks = []\ndefenses = ["none"]\n', "line 2: tasks: List should have"),
        (
            'tasks = ["t"]\n[[models]]\npretrained = "a"\n[[models]]\npretraned = "b"\n[[defenses]]\nname = "none"\n',
            "line 4: models.1.pretrained: Field required",
        ),
        (
            'models = ["a"]\ndefenses = ["none"]\ntasks = ["t"]\n[defaults]\nbatch_size = 4\nlimit = 0\n',
            "line 6: defaults.limit: ",
        ),
        (
            'models = ["a"]\ntasks = ["t"]\ndefenses = ["none"]\ndefaults = {batch_size = 4, limit = 0}\n',
            "line 4: defaults.limit: ",
        ),
        ('models = ["a"\n', "cannot be read"),
        (
            'models = ["a"]\ndefenses = ["none"]\ntasks = ["t"]\n[[overrides]]\nwhen = {seed = 3}\nset = {limit = 1}\n',
            "line 5: overrides.0.when.seed: 3 is none of 0",
        ),
    ],
)
def test_a_wrong_toml_file_names_line_and_entry_too(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_grid(path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("defenses", "said"),
    [
        ("[shiftcd]", "defense=shiftcd is unknown; did you mean shiftdc?"),
        ("[{name: shiftdc, alhpa: 1}]", "unknown model argument alhpa; did you mean alpha?"),
        ("[{name: shiftdc, alpha: strong}]", "alpha=strong"),
        ("[{name: none, seed: 3}]", "seed of defense none is no setting of a defense"),
        ("[none, none]", "appears twice"),
    ],
)
def test_a_wrong_defense_is_refused_before_anything_is_loaded(
    tmp_path: Path, defenses: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(f"models: [toy]\ndefenses: {defenses}\ntasks: [t]\n")
    assert run(path, "-o", tmp_path / "out", "--dry-run") == 2
    assert said in capsys.readouterr().err


def test_a_model_that_cannot_be_loaded_does_not_stop_the_others(
    grid_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_llava: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_llava, broken)
    (broken / "model.safetensors").write_bytes(b"torn")
    grid_file.write_text(grid_file.read_text().replace("models: [", f"models: [{broken}, "))
    out = tmp_path / "out"
    assert run(grid_file, "-o", out, "--only", "| none |", "--only", "broken", "--limit", 2) == 1
    said = "".join(capsys.readouterr())
    assert "4 cells failed" in said
    assert said.count("failed: cannot load the model") == 1, (
        "a model is said to be broken once, not once a cell"
    )
    assert "failed: cannot load the model (4 cells)" in said
    assert "[5/5" in said
    assert len(list(out.rglob("cell.json"))) == 1


def test_toml_says_the_same_as_yaml(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(
        'models = ["a"]\ntasks = ["t"]\n[[defenses]]\nname = "shiftdc"\nalpha = 0.5\n'
    )
    (tmp_path / "grid.yaml").write_text("models: [a]\ntasks: [t]\ndefenses: [{name: shiftdc, alpha: 0.5}]\n")
    assert read_grid(tmp_path / "grid.toml") == read_grid(tmp_path / "grid.yaml")
    with pytest.raises(ConfigError, match="no grid file"):
        read_grid(tmp_path / "missing.yaml")


def test_cells_that_differ_in_anything_that_matters_stand_in_different_folders(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(
        "models: [a, b]\ndefenses: [none, shiftdc, {name: shiftdc, alpha: 0.5}]\ntasks: [t, u]\nseeds: [0, 1]\n"
    )
    folders = [cell.folder for cell in read_grid(path).cells()]
    assert len(folders) == len(set(folders)) == 24


def test_each_cell_says_the_command_that_makes_it_alone(
    grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run(grid_file, "-o", out) == 0
    by_defense = {(r.defense, r.settings.get("alpha")): r for r in records(out)}
    assert len(by_defense) == 4
    for record in by_defense.values():
        words = shlex.split(record.command)
        assert words[:4] == ["shiftdc-eval", "run", "--model", "shiftdc_vlm"]
        options = dict(zip(words[2::2], words[3::2], strict=True))
        model = ShiftDCVlm.create_from_arg_string(
            options["--model_args"] + f",journal={tmp_path / record.id}"
        )
        results = evaluate(
            model,
            options["--tasks"],
            gen_kwargs=options["--gen_kwargs"],
            limit=int(options["--limit"]) if "--limit" in options else None,
        )
        (again,) = records(tmp_path / record.id)
        for name in ("model", "revision", "defense", "settings", "seed", "batch_size", "attention", "notes"):
            assert getattr(again, name) == getattr(record, name), name
        assert again.tasks[0].generation == record.tasks[0].generation
        assert len(results["samples"]["figstep"]) == record.cost.samples


def test_a_command_holds_a_comma_in_quotes_and_what_it_cannot_hold_gives_none(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    text = "models: [a]\ndefenses: [none]\ntasks: [t]\ndefaults: {{system_prompt: '{}'}}\n"
    path.write_text(text.format("Be kind."))
    (cell,) = read_grid(path).cells()
    assert "'pretrained=a,defense=none,system_prompt=Be kind.,batch_size=auto'" in cell.command
    path.write_text(text.format('Be "kind", and brief.'))
    (cell,) = read_grid(path).cells()
    given = shlex.split(cell.command)[5]
    assert given == 'pretrained=a,defense=none,system_prompt="Be ""kind"", and brief.",batch_size=auto'
    assert parse_pairs(given)["system_prompt"] == 'Be "kind", and brief.'
    path.write_text("models: [a]\ndefenses: [none]\ntasks: [t]\ndefaults: {gen_kwargs: {until: 'a,b'}}\n")
    (cell,) = read_grid(path).cells()
    assert cell.command == ""


def journalled(out: Path) -> dict[str, list[str]]:
    """Keys of the finished answers by journal, torn last lines left out."""
    found = {}
    for path in out.rglob("journal-*.jsonl"):
        lines = path.read_text().split("\n")[:-1]
        found[str(path.relative_to(out))] = [json.loads(line)["key"] for line in lines[1:]]
    return found


def responses(out: Path) -> dict[str, dict[str, str]]:
    """Responses by folder of a cell and item."""
    return {
        str(path.relative_to(out).parents[1]): {
            row["shiftdc"]["item"]: row["shiftdc_item"]["response"]
            for row in map(json.loads, path.read_text().splitlines())
        }
        for path in out.rglob("*_samples_*.jsonl")
    }


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_grid_killed_at_random_goes_on_and_loses_and_repeats_nothing(
    grid_file: Path, tmp_path: Path, warm: Warm
) -> None:
    whole, out, answers = tmp_path / "whole", tmp_path / "out", 9 + 9 + 9 + 5
    seed = random.randrange(10**6)
    print(f"seed of the kills: {seed}")
    targets = random.Random(seed).sample(range(1, answers), 2)
    words = ["run", str(grid_file), "-o", str(out)]
    for target in sorted(targets):
        child = warm.start("warm:grid", words, folder=tmp_path)
        while sum(map(len, journalled(out).values())) < target and child.running():
            time.sleep(0.005)
        if child.running():
            os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, (
            "the grid ended before it was killed: the test would show nothing"
        )
        kept = journalled(out)
        complete = {path: path.stat().st_mtime_ns for path in out.rglob("cell.json")}
        assert len(complete) < 4
    done = warm.run("warm:grid", words, folder=tmp_path)
    assert done.status == 0, done.output()[-2000:]
    assert len(list(out.rglob("cell.json"))) == 4
    for path, written in complete.items():
        assert path.stat().st_mtime_ns == written, "a complete cell was run again"
    final = journalled(out)
    for path, keys in kept.items():
        assert final[path][: len(keys)] == keys, "a finished answer was lost"
    assert all(len(keys) == len(set(keys)) for keys in final.values()), "an answer was made twice"
    assert sum(map(len, final.values())) == answers
    assert run(grid_file, "-o", whole) == 0
    assert responses(out) == responses(whole)


def test_a_cell_of_code_that_answered_otherwise_is_not_complete(
    grid_file: Path, tmp_path: Path, tiny_llava: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "grid.yaml", tmp_path / "out"
    path.write_text(f"models: [{tiny_llava}]\ndefenses: [none]\ntasks: [figstep_benign]\n")
    (cell,) = read_grid(path).cells()
    (out / cell.folder).mkdir(parents=True)
    complete = json.loads(grid._completion(cell, revision_on_disk(str(tiny_llava))))
    for version, said in ((ANSWER_VERSION, "1 complete"), (ANSWER_VERSION - 1, "0 complete")):
        (out / cell.folder / "cell.json").write_text(json.dumps(complete | {"answer_version": version}))
        assert run(path, "-o", out, "--dry-run") == 0
        assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "figstep: version 1 then, 2 now"),
        (
            {"revision": "1" * 40},
            f"figstep: revision {catalogue.TASKS['figstep'].revision} then, {'1' * 40} now",
        ),
    ],
)
def test_a_cell_whose_task_is_another_one_now_is_run_again_from_its_answers(
    grid_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    said: str,
) -> None:
    out, only = tmp_path / "out", ["--only", "| none |", "--limit", 2]
    assert run(grid_file, "-o", out, *only) == 0
    assert run(grid_file, "-o", out, *only, "--dry-run") == 0
    assert "1 complete, 0 to run" in capsys.readouterr().out
    monkeypatch.setitem(catalogue.TASKS, "figstep", replace(catalogue.TASKS["figstep"], **change))
    monkeypatch.setenv("COLUMNS", "250")
    assert run(grid_file, "-o", out, *only, "--dry-run") == 0
    planned = capsys.readouterr().out
    assert "0 complete, 1 to run" in planned
    assert f"to run: {said}" in planned
    assert run(grid_file, "-o", out, *only) == 0
    assert sorted(record.cost.reused for record in records(out)) == [0, 2]
    assert run(grid_file, "-o", out, *only, "--dry-run") == 0
    assert "1 complete, 0 to run" in capsys.readouterr().out


def test_a_changed_cell_that_cannot_be_run_keeps_what_it_had_until_it_is_run(
    grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, only = tmp_path / "out", ["--only", "| none |", "--limit", 2]
    assert run(grid_file, "-o", out, *only) == 0
    (complete,) = out.rglob("cell.json")
    before, answered = complete.read_bytes(), responses(out)
    monkeypatch.setitem(catalogue.TASKS, "figstep", replace(catalogue.TASKS["figstep"], version=2))
    load = FigStep.load
    monkeypatch.setattr(FigStep, "load", lambda task: 1 / 0)
    assert run(grid_file, "-o", out, *only) == 1
    assert "ZeroDivisionError" in complete.with_name("failure.txt").read_text()
    assert (complete.read_bytes(), responses(out)) == (before, answered)
    assert len(build([out], tmp_path / "old board")) == 1
    monkeypatch.setattr(FigStep, "load", load)
    assert run(grid_file, "-o", out, *only) == 0
    assert not complete.with_name("failure.txt").exists()
    assert len(list(out.rglob("*_samples_*.jsonl"))) == 1
    assert len(build([out], tmp_path / "new board")) == 1


def test_a_report_that_cannot_be_given_is_no_failure_of_the_cell(
    grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(cell: Cell, said: str, samples: int) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(grid, "load_backbone", lambda *_: None)
    monkeypatch.setattr(grid, "run_cell", lambda cell, backbone, out: (3, 0))
    with pytest.raises(BrokenPipeError):
        grid.run_cells(list(read_grid(grid_file).cells()), tmp_path / "out", report=report)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("noted", [None, {}, {"figstep": {"version": "1"}}, {"mossbench": {}}])
def test_a_cell_that_does_not_say_what_its_task_was_is_run_again(
    grid_file: Path, tmp_path: Path, tiny_llava: Path, noted: object
) -> None:
    cell, out = next(read_grid(grid_file).cells()), tmp_path / "out"
    (out / cell.folder).mkdir(parents=True)
    complete = json.loads(grid._completion(cell, revision_on_disk(str(tiny_llava))))
    for tasks, expected in ((complete["tasks"], True), (noted, False)):
        (out / cell.folder / "cell.json").write_text(json.dumps(complete | {"tasks": tasks}))
        assert grid.is_complete(cell, out) is expected


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "grid.yaml",
            "models: [toy]\ndefenses: [none]\ntasks:\n  - figstep\n  - figstpe\n",
            "line 5: tasks.1: no task 'figstpe'; did you mean figstep?",
        ),
        (
            "grid.toml",
            'models = ["toy"]\ndefenses = ["none"]\ntasks = ["nothing_alike_at_all"]\n',
            "line 3: tasks.0: no task 'nothing_alike_at_all'; `shiftdc-eval tasks` shows",
        ),
    ],
)
def test_an_unknown_task_is_refused_before_anything_is_loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    said: str,
) -> None:
    monkeypatch.setattr("shiftdc_eval.grid.tasks._manager", [manager()])
    monkeypatch.setattr(grid, "load_backbone", lambda *_: pytest.fail("a wrong grid loads nothing"))
    path = tmp_path / name
    path.write_text(text)
    assert run(path, "-o", tmp_path / "out") == 2
    assert f"{path}, {said}" in capsys.readouterr().err


def test_everything_wrong_with_a_grid_is_said_at_once_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_TOKEN", "canary4711")
    monkeypatch.setenv("SHIFTDC_JUDGES", "keyword_robst")
    monkeypatch.setattr(grid_command, "require_tasks", lambda *_: pytest.fail("lmms-eval was imported"))
    path = tmp_path / "grid.yaml"
    path.write_text(
        "models: [toy, /no/such]\ndefenses: [none, nonee]\ntasks: [toy_vqa, toy_vga]\nseeds: [0, 1]\n"
        "defaults: {gen_kwargs: {temperature: 0.9, api_key: x}, system_prompt: say canary4711}\n"
    )
    assert run(path, "-o", tmp_path / "out", "--dry-run") == 2
    said = capsys.readouterr().err
    for line in (
        "line 1: models.1: cannot load pretrained=/no/such",
        "line 2: defenses.1: model argument defense=nonee is unknown; did you mean none?",
        "line 3: tasks.1: no task 'toy_vga'; did you mean toy_vqa?",
        "line 4: seeds.1: seed 1 has no effect with greedy decoding",
        "line 5: defaults.gen_kwargs: gen_kwargs: temperature=0.9 has no effect",
        "line 5: defaults.gen_kwargs: gen_kwargs: unknown setting api_key",
        "line 5: defaults.system_prompt: it holds the value of the variable MY_TOKEN",
        "unknown judge 'keyword_robst'",
    ):
        assert said.count(line) == 1, line
    assert len(said.splitlines()) == 8
    assert "canary4711" not in said


def test_a_grid_in_several_processes_is_refused_and_told_what_to_do(
    grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(grid_file, "-o", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "--ray" in said
    assert "accelerate launch" in said


def test_a_group_stands_for_its_tasks_as_they_are_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shiftdc_eval.grid.tasks._manager", [manager()])
    facts = task_facts("shiftdc_grid")
    assert {"figstep", "mossbench", "shiftdc_mme", "mm_safetybench_sd"} < set(facts)
    assert facts["figstep"] == {"version": "1", "revision": catalogue.TASKS["figstep"].revision}


def test_groups_of_others_are_accepted_whatever_they_are_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = {
        "mixed": [
            "figstep",
            {"task": "made_here", "dataset_path": "d"},
            {"group": "in", "task": ["mossbench"]},
        ],
        "of_nothing_known": ["not_here"],
    }
    for name, tasks in groups.items():
        (tmp_path / f"{name}.yaml").write_text(json.dumps({"group": name, "task": tasks}))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    monkeypatch.setattr("shiftdc_eval.grid.tasks._manager", [manager])
    require_tasks(tmp_path / "grid.yaml", list(groups))
    assert set(task_facts("mixed")) == {"figstep", "mossbench"}
    assert task_facts("of_nothing_known") == {}


def test_a_model_whose_files_changed_is_another_model(
    grid_file: Path, tmp_path: Path, tiny_llava: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(tiny_llava, mine)
    grid_file.write_text(FILE.format(model=mine))
    out, only = tmp_path / "out", ["--only", "| none |", "--limit", 2]
    assert run(grid_file, "-o", out, *only) == 0
    assert run(grid_file, "-o", out, *only, "--dry-run") == 0
    assert "1 complete, 0 to run" in capsys.readouterr().out
    (earlier,) = records(out)
    save_tiny_llava(mine, seed=5)
    assert run(grid_file, "-o", out, *only, "--dry-run") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "0 complete, 1 to run" in said
    assert "changed" in said
    assert run(grid_file, "-o", out, *only) == 0
    found = records(out)
    assert len({record.revision for record in found}) == len(found) == 2
    assert [record.cost.reused for record in found] == [0, 0]
    board = tmp_path / "board"
    (path,) = build([out], board)
    (newest,) = (record for record in found if record.id != earlier.id)
    assert json.loads((board / "cells" / path).read_text())["model"]["revision"] == newest.revision


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("nonee", "did you mean none"),
        ("{name: shiftdc, alpha: much}", "alpha"),
        ("{name: cmrm, caption: own}", "caption"),
    ],
)
def test_a_wrong_defense_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: str, said: str
) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(f"models: [toy]\ndefenses:\n  - none\n  - {wrong}\ntasks: [toy_figstep]\n")
    assert run(path, "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "grid.yaml, line 4: defenses.1: " in error
    assert said in error
    assert len(error.splitlines()) == 1
