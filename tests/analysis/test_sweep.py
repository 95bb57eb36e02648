"""Sweeps: the shipped files are sound, and a finished grid becomes one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_harness import manager, write_figstep

from shiftdc_eval.analysis.sweeps.cli import shipped
from shiftdc_eval.analysis.sweeps.inputs import (
    make_directions,
    with_entries,
    with_files,
    write_contrast,
)
from shiftdc_eval.analysis.sweeps.table import _rank, against_random
from shiftdc_eval.backbones import ModelSpec, load_backbone
from shiftdc_eval.cli import main
from shiftdc_eval.core.errors import ConfigError, DataError, DirectionError
from shiftdc_eval.defenses import DEFENSES
from shiftdc_eval.defenses.contrast import load_contrast
from shiftdc_eval.defenses.directions import Directions
from shiftdc_eval.grid.file import read_grid
from shiftdc_eval.grid.plan import checked
from shiftdc_eval.plugin.arguments import validated
from shiftdc_eval.steering import SafetyDirection
from shiftdc_eval.tasks.catalogue import TASKS


@pytest.mark.parametrize("name", shipped())
def test_every_cell_of_a_shipped_sweep_is_valid_and_marked(name: str) -> None:
    found = read_grid(shipped()[name])
    assert found.defenses[0].name == "none"
    assert set(found.tasks) <= set(TASKS)
    for entry in found.defenses:
        own = {k: value for k, value in entry.settings.items() if k not in ("contrast", "direction")}
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
    cut = load_contrast(write_contrast("some/model", "20", tmp_path)).pairs
    # one of every category before a second of any
    assert [pair.id for pair in cut[:4]] == [
        "illegal-access-17",
        "misinformation-08",
        "malware-09",
        "dangerous-advice-15",
    ]
    assert {pair.category for pair in cut} == {pair.category for pair in whole}
    assert {pair.id for pair in load_contrast(write_contrast("some/model", "10", tmp_path)).pairs} < {
        pair.id for pair in cut
    }
    mixed = load_contrast(write_contrast("some/model", "shuffled", tmp_path)).pairs
    swapped = [pair.unsafe == other.safe for pair, other in zip(mixed, whole, strict=True)]
    assert 0.4 < sum(swapped) / len(swapped) < 0.6
    toy = load_contrast(write_contrast("toy", "shuffled", tmp_path)).pairs
    assert len(toy) > 100
    with pytest.raises(
        ConfigError, match="contrast:7: give contrast:shuffled, contrast:built_in or a number from"
    ):
        write_contrast("some/model", "7", tmp_path)


def test_the_grid_is_given_files_in_place_of_names(tmp_path: Path) -> None:
    for name, count in (("contrast_pairs", 4), ("contrast_sets", 2)):
        entries = with_files(read_grid(shipped()[name]), tmp_path, tmp_path)[0].defenses
        paths = [Path(entry.settings["contrast"]) for entry in entries if "contrast" in entry.settings]
        assert len(paths) == count
        assert all(path.is_file() for path in paths)


def test_a_users_contrast_set_and_direction_become_marked_cells(tmp_path: Path) -> None:
    grid = with_entries(read_grid(shipped()["alpha"]), ["a/mine.jsonl"], ["b/seed_7"])
    *_, set_entry, direction_entry = grid.defenses
    assert (set_entry.settings["contrast"], set_entry.ablation) == ("a/mine.jsonl", "contrast set mine")
    assert direction_entry.ablation == "direction of seed_7"
    mine = tmp_path / "mine.jsonl"
    mine.write_text(write_contrast("some/model", "10", tmp_path).read_text())
    grid = with_entries(read_grid(shipped()["alpha"]), [str(mine)], ["b/seed_7"])
    found, wanted = with_files(grid, tmp_path, tmp_path)
    assert found.defenses[-1].settings["caption_max_new_tokens"] == 32
    assert wanted == {Path(found.defenses[-1].settings["direction"]): "b/seed_7"}


@pytest.mark.parametrize("given", ["/no/such/model", "gone.safetensors"])
def test_a_direction_that_is_not_there_is_named_before_anything_runs(given: str, tmp_path: Path) -> None:
    grid = with_entries(read_grid(shipped()["alpha"]), [], [given])
    with pytest.raises(ConfigError, match=f"direction: {given}: there is no such file or folder"):
        with_files(grid, tmp_path, tmp_path)


def test_a_changed_contrast_set_or_direction_is_another_cell(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine.jsonl", tmp_path / "other.safetensors"
    entries = with_entries(read_grid(shipped()["alpha"]), [str(mine)], [str(other)])
    folders, contents = [], []
    for pairs in (10, 10, 12):
        mine.write_text(write_contrast("some/model", str(pairs), tmp_path).read_text())
        vectors = torch.full((2, 4), float(pairs))
        SafetyDirection(vectors, "theirs", "1" * 64, "2" * 64, "3" * 64, 5, 5).save(other)
        found, _ = with_files(entries, tmp_path / "sets", tmp_path)
        folders.append([cell.folder for cell in found.cells()])
        contents.append(load_contrast(Path(found.defenses[-2].settings["contrast"])).sha256)
    first, same, changed = folders
    assert first == same
    tasks = len(entries.tasks)
    assert first[: -2 * tasks] == changed[: -2 * tasks]
    assert not set(first[-2 * tasks :]) & set(changed)
    assert contents[0] == contents[1] != contents[2]


def test_a_contrast_set_that_is_not_there_is_named_before_anything_runs(tmp_path: Path) -> None:
    entries = with_entries(read_grid(shipped()["alpha"]), [str(tmp_path / "mine.jsonl")], [])
    with pytest.raises(DataError, match=r"cannot read the contrast set .*mine\.jsonl"):
        with_files(entries, tmp_path, tmp_path)


def test_models_with_contrast_sets_of_their_own_take_no_common_part(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    text = "models: [toy, {other}]\ndefenses: [none, {{name: shiftdc, contrast: 'contrast:{which}'}}]\n"
    for other, which, fits in (
        ("some/model", "10", False),
        ("some/model", "built_in", True),
        ("toy", "10", True),
    ):
        file.write_text(text.format(other=other, which=which) + "tasks: [toy_mme]\n")
        if fits:
            with_files(read_grid(file), tmp_path, tmp_path)
        else:
            with pytest.raises(
                ConfigError, match="contrast:10: these models bring contrast sets of their own"
            ):
                with_files(read_grid(file), tmp_path, tmp_path)


@pytest.mark.usefixtures("few_pairs")
def test_another_models_direction_is_taken_when_its_shape_fits(tiny_llava: Path, tmp_path: Path) -> None:
    backbone = load_backbone(ModelSpec(str(tiny_llava), device="cpu"))
    own = Directions(backbone)()
    other = SafetyDirection(own.vectors + 1, "theirs", "1" * 64, "2" * 64, "3" * 64, 5, 5)
    other.save(tmp_path / "other.safetensors")
    target = tmp_path / "made.safetensors"
    make_directions({target: str(tmp_path / "other.safetensors")}, backbone)
    found = Directions(backbone, path=target)()
    assert found.vectors.equal(other.vectors)
    assert found.created_by == "fitted on theirs@111111111111, used as an ablation"
    SafetyDirection(own.vectors, "a third", "1" * 64, "2" * 64, "3" * 64, 5, 5).save(target)
    make_directions({target: str(tmp_path / "other.safetensors")}, backbone)  # not this model's: made anew
    assert Directions(backbone, path=target)().vectors.equal(other.vectors)
    SafetyDirection(own.vectors[1:], "theirs", "1", "2", "3", 5, 5).save(tmp_path / "short.safetensors")
    with pytest.raises(
        DirectionError, match=r"short.safetensors: its direction has 3 layers x 32, .* 4 x 32"
    ):
        make_directions({tmp_path / "x.safetensors": str(tmp_path / "short.safetensors")}, backbone)


def test_the_shipped_directions_of_other_seeds_are_whole_and_not_the_toys_own() -> None:
    found = [SafetyDirection.load(path) for path in sorted(shipped()["alpha"].parent.glob("*.safetensors"))]
    assert [one.model for one in found] == ["toy, seed 1", "toy, seed 2"]
    assert len({one.revision for one in found}) == 2


@pytest.mark.parametrize(
    ("setting", "said"),
    [("alhpa: 1", "alhpa"), ("alpha: much", "alpha=much"), ("layers: 1-2", "appears twice")],
)
def test_a_wrong_cell_is_refused_before_anything_runs(setting: str, said: str, tmp_path: Path) -> None:
    entry = f"{{name: shiftdc, {setting}, ablation: x}}"
    file = tmp_path / "mine.yaml"
    file.write_text(f"models: [m]\ndefenses: [none, {entry}, {entry}]\ntasks: [toy_mme]\n")
    with pytest.raises(ConfigError, match=said):
        checked(list(read_grid(file).cells()), may_set=("contrast", "direction"))


def test_rows_stand_in_the_order_of_their_numbers() -> None:
    rows = [
        {"defense": name, "ablation": why, "label": name}
        for name, why in (
            ("shiftdc", "strength 2"),
            ("shiftdc", "strength 0.5"),
            ("random", "strength 10"),
            ("shiftdc", ""),
            ("none", ""),
        )
    ]
    ordered = [one["ablation"] or one["defense"] for one in sorted(rows, key=_rank)]
    assert ordered == ["none", "shiftdc", "strength 0.5", "strength 2", "strength 10"]


def row(defense: str, difference: float, ablation: str = "", better: bool = True) -> dict[str, Any]:
    return {
        "model": "m",
        "task": "t",
        "metric": "keyword_asr",
        "lower_is_better": better,
        "scale": 100,
        "defense": defense,
        "ablation": ablation,
        "label": defense,
        "settings": {},
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
    tiny_llava: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    few_pairs: None,
) -> None:
    monkeypatch.setenv("SHIFTDC_DATA", str(write_figstep(tmp_path / "data", tasks=1)))
    monkeypatch.setattr("shiftdc_eval.grid.tasks._manager", [manager()])
    file = tmp_path / "mine.yaml"
    file.write_text(GRID.format(model=tiny_llava))
    out = tmp_path / "out"
    assert main(["sweep", "run", str(file), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "3 cells, 0 complete, 3 to run" in said
    assert "forward passes of one prompt each: 9 answers, 3 captions, 3 activations, " in said
    assert "6 more would be made if cells shared nothing: 0 answers, 3 captions, 3 activations, 0" in said
    summary = json.loads((out / "sweep.json").read_text())
    assert [one["defense"] for one in summary["rows"]] == ["none", "shiftdc", "random"]
    assert [bool(one["ablation"]) for one in summary["rows"]] == [False, False, True]
    assert summary["rows"][0]["difference"]["value"] == 0
    assert summary["random"][0]["directions"] == 1
    assert "1 random directions" in (out / "sweep.md").read_text()
    first = (out / "sweep.svg").read_bytes()
    assert main(["sweep", "table", str(out / "results"), "-o", str(out)]) == 0
    assert (out / "sweep.svg").read_bytes() == first
    # another sweep in the same folder has a table of its own
    file.write_text(GRID.format(model=tiny_llava).replace("random_seed: 0", "random_seed: 1"))
    assert main(["sweep", "run", str(file), "-o", str(out)]) == 0
    other = json.loads((out / "sweep.json").read_text())["rows"]
    assert [one["settings"].get("random_seed") for one in other] == [None, None, 1]
    assert main(["sweep", "table", str(out / "results"), "--judge", "nobody"]) == 2
    assert "no verdicts of judge nobody" in capsys.readouterr().err


def test_an_unknown_sweep_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "show", "nothing"]) == 2
    assert "neither a grid file nor one of alpha, " in capsys.readouterr().err
    assert main(["sweep", "show", "alpah"]) == 2
    assert "did you mean alpha?" in capsys.readouterr().err


def test_an_unknown_task_of_a_sweep_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shiftdc_eval.grid.tasks._manager", [manager()])
    file = tmp_path / "sweep.yaml"
    file.write_text("models: [toy]\ndefenses: [none]\ntasks:\n  - toy_figstep\n  - toy_nonsense\n")
    assert main(["sweep", "run", str(file), "-o", str(tmp_path / "out")]) == 2
    assert "sweep.yaml, line 5" in capsys.readouterr().err
