from pathlib import Path

import pytest

from shiftdc_eval.cli import main


@pytest.mark.slow
def test_the_demo_runs_offline_and_leaves_table_plot_and_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapter_harness import manager

    from shiftdc_eval import grid

    monkeypatch.setattr(grid, "_manager", [manager()])
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--limit", "4"]) == 0
    said = capsys.readouterr().out
    for word in ("none", "shiftdc", "random", "figstep", "keyword asr", "over refusal"):
        assert word in said
    drawn = (out / "plot.svg").read_text()
    assert drawn.lstrip().startswith("<?xml")
    assert 'id="legend_1"' in drawn
    assert "toy" in (out / "board" / "index.html").read_text()
    assert len(list((out / "board" / "cells").rglob("*.json"))) == 18
