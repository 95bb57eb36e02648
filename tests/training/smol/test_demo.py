"""The demo shows refusals, never attack success, and says whose images it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.smol.corpus.eval_items import headings
from training.smol.corpus.overlap import EvalItem, overlapping
from training.smol.demo import OWN, main, provide


@pytest.fixture(autouse=True)
def _a_font_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono-Bold.ttf"
    monkeypatch.setenv("SHIFTDC_FONT", str(font))
    monkeypatch.setenv("SHIFTDC_DATA", "")  # put back afterwards, whatever the demo sets


def test_there_are_five_headings_for_each_of_figsteps_topics() -> None:
    assert [len(texts) for texts in headings().values()] == [5] * 10


def test_figsteps_own_images_are_taken_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "figstep"
    (folder / "images" / "SafeBench-Tiny").mkdir(parents=True)
    monkeypatch.setenv("SHIFTDC_DATA", str(tmp_path))
    assert provide(tmp_path / "out").startswith("FigStep's own Tiny images")
    (folder / "images" / "SafeBench-Tiny").rmdir()
    (folder / "safebench.csv").touch()
    assert "drawn here" in provide(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_figstep_the_headings_are_our_own_and_it_says_so(tmp_path: Path) -> None:
    assert provide(tmp_path) == OWN
    assert "no benchmark" in OWN
    assert len((tmp_path / "data" / "figstep" / "safebench.csv").read_text("utf-8").splitlines()) == 51


def test_no_heading_of_ours_is_figsteps(shared_data: Path) -> None:
    from training.smol.corpus.eval_items import eval_items

    others: list[EvalItem] = [item for item in eval_items(shared_data) if item.dataset != "headings"]
    assert overlapping([text for texts in headings().values() for text in texts], others) == []


@pytest.mark.slow
@pytest.mark.usefixtures("few_pairs")
def test_the_demo_leaves_table_plot_and_pages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapter_harness import manager

    monkeypatch.setattr("shiftdc_eval.grid.tasks._manager", [manager()])
    file = tmp_path / "grid.yaml"
    file.write_text(
        "models: [toy]\n"
        "defenses: [none, {name: shiftdc, caption_max_new_tokens: 8}]\n"
        "tasks: [figstep_tiny, figstep_benign]\n"
        "defaults: {batch_size: 4, gen_kwargs: {max_new_tokens: 8}}\n",
        encoding="utf-8",
    )
    out = tmp_path / "demo"
    assert main(["--grid", str(file), "--out", str(out), "--limit", "4"]) == 0
    said = capsys.readouterr().out
    assert "refused, percent of the answers" in said
    assert "no benchmark" in said
    assert "n = 4" in said
    assert "attack success rate" not in said
    assert "asr" not in said.lower()
    assert (out / "plot.svg").read_text("utf-8").lstrip().startswith("<?xml")
    page = (out / "samples.html").read_text("utf-8")
    assert page[: page.index("</main>")].count("images/drawn_") == 2 * 2 * 4
    assert (out / "board" / "index.html").exists()


def test_a_folder_that_is_none_is_an_error_and_not_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHIFTDC_DATA", str(tmp_path / "absent"))
    assert main(["--out", str(tmp_path / "out")]) == 2
    assert "is not a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("training.smol", "demo.yaml"),
        ("shiftdc_eval.grid", "smol.yaml"),
        ("shiftdc_eval.grid", "smol_controls.yaml"),
    ],
)
def test_the_shipped_grids_name_tasks_and_settings_that_exist(package: str, name: str) -> None:
    from importlib.resources import files

    from shiftdc_eval.grid.file import read_grid
    from shiftdc_eval.grid.plan import checked
    from shiftdc_eval.grid.tasks import require_tasks

    path = Path(str(files(package) / name))
    grid = read_grid(path)
    require_tasks(path, grid.tasks)
    assert len(checked(list(grid.cells()))) == len(grid.defenses) * len(grid.tasks)
