"""One answered sample, looked into again."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from adapter_harness import manager, write_figstep
from few_pairs import few

from shiftdc_eval.analysis import explain
from shiftdc_eval.cli import main
from shiftdc_eval.core.records import RunRecord

GRID = """
models: [{model}]
defenses:
  - none
  - {{name: shiftdc, caption_max_new_tokens: 4}}
  - {{name: random, caption_max_new_tokens: 4}}
  - subspace
tasks: [figstep]
defaults: {{batch_size: 4, limit: 2, gen_kwargs: {{max_new_tokens: 4}}}}
"""


@pytest.fixture(scope="module")
def answered(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a grid of a random model, with the data and the cache that they used."""
    folder = tmp_path_factory.mktemp("answered")
    file = folder / "grid.yaml"
    file.write_text(GRID.format(model=tiny_llava))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIFTDC_DATA", str(write_figstep(folder / "data")))
        patch.setenv("SHIFTDC_CACHE", str(folder / "cache"))
        patch.setattr("shiftdc_eval.grid.tasks._manager", [manager()])
        patch.setattr("shiftdc_eval.defenses.directions.load_contrast", few)
        assert main(["grid", "run", str(file), "-o", str(folder / "out")]) == 0
    return folder


@pytest.fixture
def results(answered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few_pairs: None) -> Path:
    """The results of that grid, with data and cache of one's own."""
    shutil.copytree(answered, tmp_path, dirs_exist_ok=True)
    monkeypatch.setenv("SHIFTDC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("SHIFTDC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shiftdc_eval.grid.tasks._manager", [manager()])
    return tmp_path / "out"


@pytest.mark.slow
def test_the_curves_the_caption_and_both_answers_are_shown(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (calibrated,) = results.rglob("shiftdc-*")
    (plain,) = results.rglob("none-*")
    item = explain.find(calibrated, _item(calibrated)).field.item
    assert main(["explain", str(calibrated), item, "-o", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out
    stored = explain.find(calibrated, item), explain.find(plain, item)
    assert f"under shiftdc: {stored[0].response}" in said
    assert f"without a defense: {stored[1].response}" in said  # generated anew, and the same
    assert "3    *" in said
    assert "1      " in said
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert (tmp_path / "page.svg").is_file()

    assert main(["explain", str(calibrated), "figstep/nothing"]) == 2
    assert "no sample 'figstep/nothing' among 2 rows; ids look like" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("defense", ["random", "subspace"])
def test_a_run_with_vectors_of_its_own_is_shown_too(results: Path, tmp_path: Path, defense: str) -> None:
    (run,) = results.rglob(f"{defense}-*")
    assert main(["explain", str(run), _item(run), "-o", str(tmp_path / "page.html")]) == 0


@pytest.mark.slow
def test_another_image_under_the_same_name_is_refused(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    item = _item(results)
    pictures = sorted((tmp_path / "data").rglob("*.png"))
    for picture in pictures[:-1]:
        shutil.copy(pictures[-1], picture)
    assert main(["explain", str(results), item]) == 2
    assert "is not the one that was answered" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("revision", "asked"), [("ab" * 20, "ab" * 20), ("ab" * 32, None), ("unknown revision of org/vlm", None)]
)
def test_a_hub_model_is_loaded_at_the_runs_commit(revision: str, asked: str | None) -> None:
    record = SimpleNamespace(model="org/vlm", revision=revision, dtype="bfloat16")
    args = argparse.Namespace(device="cpu", device_map=None)
    spec = explain.spec_of(cast(RunRecord, record), args)
    assert (spec.pretrained, spec.revision, spec.dtype) == ("org/vlm", asked, "bfloat16")


def _item(results: Path) -> str:
    from shiftdc_eval.core.results_folder import sample_files

    return next(field.item for file in sample_files([results]) for _, field in file.samples())
