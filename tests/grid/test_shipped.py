"""Grids that are shipped by name, and what a grid costs before it is run."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from adapter_harness import manager

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.grid import cli
from shiftdc_eval.grid.cost import cost_of, parameters, rates
from shiftdc_eval.grid.file import Cell, read_grid
from shiftdc_eval.grid.plan import checked
from shiftdc_eval.plugin.preflight import task_problems

PAPER_ITEMS = {"text": 1680, "images": 3 * 1680 + 500 + 300 + 2374 + 218}


@pytest.fixture(autouse=True)
def index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shiftdc_eval.grid.tasks._manager", [manager()])


def call(*words: str) -> int:
    parser = argparse.ArgumentParser()
    cli.configure(parser)
    return cli.main(parser.parse_args(["run", *words] if words[0] not in ("list", "show") else [*words]))


def cells(text: str, folder: Path) -> list[Cell]:
    path = folder / "grid.yaml"
    path.write_text(text)
    return list(read_grid(path).cells())


def test_every_shipped_grid_is_named_described_and_right(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("list") == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"paper-tables", "readings", "smol", "controls"} <= listed.keys()
    for name, path in cli.shipped().items():
        grid = read_grid(path)
        checked(list(grid.cells()))
        assert not list(task_problems(grid.tasks)), name
        assert call("show", name) == 0
        assert capsys.readouterr().out == path.read_text(encoding="utf-8")


def test_the_papers_tables_have_its_models_and_defenses() -> None:
    grid = read_grid(cli.grid_file("paper-tables"))
    assert (len(grid.models), [one.name for one in grid.defenses]) == (
        5,
        ["none", "ecso", "adashield_s", "shiftdc"],
    )
    readings = read_grid(cli.grid_file("readings"))
    assert [one.settings.get("variant") for one in readings.defenses] == [None, "online", "paper", "official"]


def test_an_unknown_name_is_answered_with_the_nearest_and_a_path_still_works(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no grid 'paper-table'; did you mean paper-tables\?"):
        cli.grid_file("paper-table")
    (tmp_path / "mine.yaml").write_text("models: [toy]")
    assert cli.grid_file(str(tmp_path / "mine.yaml")) == tmp_path / "mine.yaml"


def test_the_passes_of_the_papers_tables_by_hand() -> None:
    cost = cost_of(list(read_grid(cli.grid_file("paper-tables")).cells()))
    whole, shown = sum(PAPER_ITEMS.values()), PAPER_ITEMS["images"]
    # none, ADASHIELD-S, ShiftDC and ECSO's second answer; ECSO's first is that of none, its self-check its own
    assert cost.passes["answers"] == 5 * (4 * whole + shown)
    assert cost.passes["captions"] == 5 * 2 * shown  # ECSO's and ShiftDC's are different
    assert not cost.unknown


def test_time_and_disk_by_hand(tmp_path: Path) -> None:
    text = "models: [org/a-8B-chat]\ndefenses: [none, shiftdc]\ntasks: [figstep, xstest_safe]\n"
    cost = cost_of(cells(text, tmp_path))
    answers, captions = 2 * (500 + 250), 500
    assert dict(cost.passes) == {"answers": answers, "captions": captions, "activations": captions}
    assert cost.new_tokens == answers * 512 + captions * 1024
    assert cost.prompt_tokens == 2 * (500 * 636 + 250 * 60) + captions * 636 + captions * 60
    scale = 8 / 7.06
    answer = 5.6 + (32.0 - 5.6) * 4 * scale
    hours = (answers * answer + captions * (22.4 * 8 + 2.9) * scale) / 3.6e6
    assert cost.hours == pytest.approx(hours)
    assert cost.disk == 16e9 + answers * (3400 + 16 * 512)
    assert "about 0.1 GPU hours" in cost.lines()[2]


def test_what_is_not_known_is_said_and_not_guessed(tmp_path: Path) -> None:
    text = "models: [org/nameless]\ndefenses: [none]\ntasks: [figstep]\n"
    cost = cost_of(cells(text, tmp_path))
    assert (cost.passes["answers"], cost.disk) == (500, 500 * (3400 + 16 * 512))
    assert any("org/nameless" in line for line in cost.lines() if line.startswith("not in these numbers"))


@pytest.mark.parametrize(
    ("model", "billions"),
    [
        ("llava-hf/llava-1.5-7b-hf", 7.06),
        ("Qwen/Qwen3-VL-8B-Instruct", 8),
        ("google/gemma-3-12b-it", 12),
        ("./models/minigpt-4-7b", 7),
        ("org/tiny-0.5b", 0.5),
        ("org/blip", None),
        ("org/vlm-4bit", None),
    ],
)
def test_parameters_of_a_model(model: str, billions: float | None) -> None:
    assert parameters(model) == billions


def test_a_dry_run_says_the_cost_and_then_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(
        "models: [./nowhere-7b, toy]\ndefenses: [none]\ntasks: [toy_vqa]\ndefaults: {limit: 10}\n"
    )
    with pytest.raises(ConfigError, match="there is no such folder"):
        call(str(path), "--dry-run", "-o", str(tmp_path / "out"))
    said = capsys.readouterr().out
    assert "at most 20 passes of one prompt each: 20 answers, 0 captions, 0 activations" in said
    assert call(str(path), "--dry-run", "--only", "toy |", "-o", str(tmp_path / "out")) == 0
    assert not (tmp_path / "out").exists()


def test_the_rates_are_those_of_the_engines_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| one card, the other idle"))
    none, shiftdc, stored = ([float(one) for one in cell.split(",")] for cell in row.split("|")[2:5])
    answer, defended, known = (sum(times) / len(times) for times in (none, shiftdc, stored))
    found = rates()
    assert found["answers"]["milliseconds"] == pytest.approx(answer, abs=0.06)
    assert found["captions"]["milliseconds"] == pytest.approx(defended - known, abs=0.06)
    assert found["activations"]["milliseconds"] == pytest.approx(known - answer, abs=0.06)
