"""Sweeps: the shipped files are sound, and a finished grid becomes one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from adapter_harness import manager, write_figstep

from shiftdc_eval import grid
from shiftdc_eval.analysis.sweep import shipped, with_contrast_sets, write_contrast
from shiftdc_eval.analysis.sweep_table import against_random
from shiftdc_eval.arguments import validated
from shiftdc_eval.cli import main
from shiftdc_eval.contrast import load_contrast
from shiftdc_eval.defenses import DEFENSES
from shiftdc_eval.errors import ConfigError
from shiftdc_eval.grid_file import read_grid
from shiftdc_eval.tasks.catalogue import TASKS


@pytest.mark.parametrize("name", shipped())
def test_every_cell_of_a_shipped_sweep_is_valid_and_marked(name: str) -> None:
    found = read_grid(shipped()[name])
    assert found.defenses[0].name == "none"
    assert set(found.tasks) <= set(TASKS)
    for entry in found.defenses:
        own = {key: value for key, value in entry.settings.items() if key != "contrast"}
        validated(DEFENSES[entry.name], own, what="setting")
        reference = entry.name == "none" or (
            entry.name == "shiftdc" and set(own) <= {"caption_max_new_tokens"}
        )
        assert bool(entry.ablation) or reference, entry
    folders = [cell.folder for cell in found.cells()]
    assert len(set(folders)) == len(folders)


def test_at_least_twenty_random_directions_are_shipped() -> None:
    seeds = {entry.settings.get("random_seed") for entry in read_grid(shipped()["random"]).defenses}
    assert len(seeds - {None}) >= 20


def test_contrast_sets_are_cut_and_shuffled(tmp_path: Path) -> None:
    whole = load_contrast(None).pairs
    cut = load_contrast(write_contrast("some/model", "10", tmp_path)).pairs
    assert [pair.id for pair in cut] == [pair.id for pair in whole[:10]]
    mixed = load_contrast(write_contrast("some/model", "shuffled", tmp_path)).pairs
    swapped = [pair.unsafe == other.safe for pair, other in zip(mixed, whole, strict=True)]
    assert 0.4 < sum(swapped) / len(swapped) < 0.6
    toy = load_contrast(write_contrast("toy", "shuffled", tmp_path)).pairs
    assert len(toy) > 100
    with pytest.raises(ConfigError, match="contrast:7: give contrast:shuffled or a number from 8 to"):
        write_contrast("some/model", "7", tmp_path)


def test_the_grid_is_given_files_in_place_of_names(tmp_path: Path) -> None:
    entries = with_contrast_sets(read_grid(shipped()["contrast_pairs"]), tmp_path).defenses
    paths = [Path(entry.settings["contrast"]) for entry in entries if "contrast" in entry.settings]
    assert len(paths) == 5
    assert all(path.is_file() for path in paths)


def row(defense: str, difference: float, ablation: str = "", better: bool = True) -> dict[str, Any]:
    return {
        "model": "m",
        "task": "t",
        "metric": "keyword_asr",
        "lower_is_better": better,
        "scale": 100,
        "defense": defense,
        "ablation": ablation,
        "difference": {"value": difference},
    }


@pytest.mark.parametrize(
    ("effect", "as_good", "p"), [(-0.5, 0, 1 / 21), (-0.105, 9, 10 / 21), (0.5, 20, 1.0)]
)
def test_the_place_among_random_directions_is_counted(effect: float, as_good: int, p: float) -> None:
    random = [row("random", -0.01 * at, "random direction") for at in range(20)]
    (found,) = against_random([row("none", 0.0), row("shiftdc", effect), *random])
    assert found["directions"] == 20
    assert found["as_good"] == as_good
    assert found["p"] == pytest.approx(p, rel=1e-3)


def test_where_higher_is_better_the_order_turns() -> None:
    random = [row("random", 0.01 * at, "random direction", better=False) for at in range(20)]
    (found,) = against_random([row("shiftdc", 0.155, better=False), *random])
    assert found["as_good"] == 4


GRID = """
models: [{model}]
defenses:
  - none
  - {{name: shiftdc, caption_max_new_tokens: 4}}
  - {{name: random, random_seed: 0, caption_max_new_tokens: 4, ablation: random direction 0}}
tasks: [figstep]
defaults: {{batch_size: 4, gen_kwargs: {{max_new_tokens: 4}}}}
"""


@pytest.mark.slow
def test_a_finished_sweep_becomes_a_table_and_a_plot(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHIFTDC_DATA", str(write_figstep(tmp_path / "data")))
    monkeypatch.setattr(grid, "_manager", [manager()])
    file = tmp_path / "mine.yaml"
    file.write_text(GRID.format(model=tiny_llava))
    out = tmp_path / "out"
    assert main(["sweep", "run", str(file), "-o", str(out)]) == 0
    summary = json.loads((out / "sweep.json").read_text())
    assert [one["defense"] for one in summary["rows"]] == ["none", "random", "shiftdc"]
    assert summary["rows"][0]["difference"]["value"] == 0
    assert summary["random"][0]["directions"] == 1
    assert "1 random directions" in (out / "sweep.md").read_text()
    first = (out / "sweep.svg").read_bytes()
    assert main(["sweep", "table", str(out / "results"), "-o", str(out)]) == 0
    assert (out / "sweep.svg").read_bytes() == first
    assert main(["sweep", "table", str(out / "results"), "--judge", "nobody"]) == 2
    assert "no verdicts of judge nobody" in capsys.readouterr().err


def test_an_unknown_sweep_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "show", "nothing"]) == 2
    assert "neither a grid file nor one of alpha, " in capsys.readouterr().err
