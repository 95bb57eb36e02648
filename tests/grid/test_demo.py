import re
from importlib.resources import files
from pathlib import Path

import pytest
from alone import ALONE

from shiftdc_eval.cli import main
from shiftdc_eval.grid.file import read_grid
from shiftdc_eval.grid.plan import checked

SHOWN = {
    "none", "shiftdc", "random", "ecso", "ecso_caption", "adashield_s", "cmrm", "coca", "refusal_direction"
}  # fmt: skip
"""What the demo's table shows: docs/start.md prints it, so it stays small."""
REST = sorted(set(ALONE) - SHOWN - {"shiftdc_captioned"})
"""Run on the toy model here, and not in the demo; whose caption ShiftDC is given is a question of an ablation."""


@pytest.mark.slow
@pytest.mark.usefixtures("few_pairs")
def test_the_demo_runs_offline_and_leaves_table_plot_and_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapter_harness import manager

    monkeypatch.setattr("shiftdc_eval.grid.tasks._manager", [manager()])
    out = tmp_path / "demo"
    shipped = (Path(str(files("shiftdc_eval.grid"))) / "demo.yaml").read_text()
    few = tmp_path / "few.yaml"  # every defense there is, one attack and one task that scores utility
    more = "".join(f"  - {name}\n" for name in REST)
    more = more.replace("- srt_raw\n", '- {name: srt_raw, layers: "3-4", scored: 2}\n')  # a short search
    few.write_text(re.sub("  - toy_(mm|mme|benign).*\n", "", shipped).replace("tasks:\n", f"{more}tasks:\n"))
    assert main(["demo", "--out", str(out), "--limit", "1", "--grid", str(few)]) == 0
    said = capsys.readouterr().out
    for word in (*SHOWN, *REST, "official", "adaptive=true", "figstep", "keyword ASR", "vqa"):
        assert word in said
    drawn = (out / "plot.svg").read_text()
    assert drawn.lstrip().startswith("<?xml")
    assert 'id="legend_1"' in drawn
    assert "toy" in (out / "board" / "index.html").read_text()
    assert len(list((out / "board" / "cells").rglob("*.json"))) == (12 + len(REST)) * 2


def test_the_demo_has_its_defenses_on_every_task_of_the_boards_own_grid() -> None:
    shipped = Path(str(files("shiftdc_eval.grid")))
    demo, whole = (checked(list(read_grid(shipped / name).cells())) for name in ("demo.yaml", "toy.yaml"))
    assert {cell.defense.name for cell in demo} == SHOWN
    assert {(cell.defense, cell.task) for cell in demo} == {
        (cell.defense, cell.task)
        for cell in whole
        if cell.defense.name in SHOWN and cell.defense.ablation != "half strength"
    }
