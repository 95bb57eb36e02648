import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from adapter_harness import manager, write_figstep

from shiftdc_eval import grid
from shiftdc_eval.errors import ConfigError
from shiftdc_eval.grid_file import read_grid
from shiftdc_eval.records import RunRecord

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
def grid_file(tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHIFTDC_DATA", str(write_figstep(tmp_path / "data")))
    monkeypatch.setattr(grid, "_manager", [manager()])
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
    monkeypatch.setattr(grid, "_load", lambda model: pytest.fail("a complete grid loads nothing"))
    assert run(grid_file, "-o", out) == 0
    assert "4 complete, 0 to run" in capsys.readouterr().out


def test_the_model_is_loaded_once_for_all_its_cells(
    grid_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    whole = grid._load
    monkeypatch.setattr(grid, "_load", lambda model: loaded.append(model) or whole(model))
    assert run(grid_file, "-o", tmp_path / "out", "--limit", 2) == 0
    assert len(loaded) == 1


def test_a_failing_cell_does_not_stop_the_others_and_is_reported(
    grid_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = grid_file.read_text().replace("  - none\n", "  - none\n  - {name: shiftdc, layers: 7-9}\n")
    grid_file.write_text(text.replace("tasks: [figstep]", "tasks: [figstep, no_such_task]"))
    out = tmp_path / "out"
    assert run(grid_file, "-o", out, "--only", "none", "--only", "layers=7-9", "--limit", 2) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "3 cells failed" in said
    assert "layers=7-9 does not fit" in said
    assert len(list(out.rglob("cell.json"))) == 1


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    grid_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(grid_file, "-o", tmp_path / "out", "--dry-run") == 0
    assert "4 cells, 0 complete, 4 to run" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [a]\ndefenses: [none]\ntasks: [t]\nspeed: high\n", "line 4: speed: Extra inputs"),
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
        ("models: [a\n", "cannot be read"),
        ("- a\n", "Input should be a valid dictionary"),
    ],
)
def test_a_wrong_grid_file_names_line_and_entry(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_grid(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("defenses", "said"),
    [
        ("[shiftcd]", "defense=shiftcd is unknown; did you mean shiftdc?"),
        ("[{name: shiftdc, alhpa: 1}]", "unknown model argument alhpa; did you mean alpha?"),
        ("[{name: shiftdc, alpha: strong}]", "alpha=strong"),
        ("[{name: none, seed: 3}]", "seed of defense none is no setting of a defense"),
        ("[none, none]", "stands there twice"),
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
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_llava, broken)
    (broken / "model.safetensors").write_bytes(b"torn")
    grid_file.write_text(grid_file.read_text().replace("models: [", f"models: [{broken}, "))
    out = tmp_path / "out"
    assert run(grid_file, "-o", out, "--only", "| none |", "--limit", 2) == 1
    assert "1 cells failed" in capsys.readouterr().out
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


WORKER = """
import sys
sys.path.insert(0, {tests!r})
from adapter_harness import manager
from shiftdc_eval import grid
from shiftdc_eval.cli import main
grid._manager.append(manager())
sys.exit(main(["grid", "run", {file!r}, "-o", {out!r}]))
"""


@pytest.mark.slow
def test_a_grid_killed_in_the_middle_goes_on_and_does_nothing_twice(grid_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = WORKER.format(tests=str(Path(__file__).parent), file=str(grid_file), out=str(out))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdout is not None
        while "[2/4" not in child.stdout.readline():
            pass
        child.send_signal(signal.SIGKILL)
    complete = {path: path.stat().st_mtime_ns for path in out.rglob("cell.json")}
    assert 2 <= len(complete) < 4
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(out.rglob("cell.json"))) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in complete.items()), (
        "a complete cell was run again"
    )
    for journal in out.rglob("journal-*.jsonl"):
        keys = [json.loads(line)["key"] for line in journal.read_text().splitlines()[1:]]
        assert len(keys) == len(set(keys))
