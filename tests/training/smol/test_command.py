"""The merging command says where the model is, or in one line what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="the base is a GGUF file: pip install gguf")

from tiny_base import write_base, write_delta

from shiftdc_eval.backbones.bundled.smol_cli import main


def test_it_merges_and_tells_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, delta = tmp_path / "base.gguf", tmp_path / "delta.safetensors"
    write_base(base)
    write_delta(delta, base)
    arguments = ["--base", str(base), "--delta", str(delta), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[0] == str(tmp_path / "out")
    assert "seed 1" in said
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


def test_a_missing_delta_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--delta", str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
