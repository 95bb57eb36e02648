"""A tiny model goes through every stage, can be stopped after each, and becomes a difference that merges."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import tiny_corpus

from shiftdc_eval.core.errors import ConfigError
from training.smol import train as train_smol
from training.smol.corpus import pools
from training.smol.corpus.stored import Stored
from training.smol.corpus.word_salad import read_words
from training.smol.training.recipe import STAGES, Recipe, changed, fitting, named_numbers, schedule


def test_the_rate_rises_falls_and_never_ends_at_nothing() -> None:
    shares = [schedule(i, 1000) for i in range(1000)]
    assert shares[0] == 0.01
    assert max(shares) == shares[100] == 1.0
    assert shares[-1] == pytest.approx(0.02, abs=1e-4)
    assert schedule(0, 1) == 1.0


def test_a_stage_is_shortened_to_its_time_and_never_lengthened() -> None:
    assert fitting(4000, 50, each=0.05, left=100.0) == 2050
    assert fitting(1000, 50, each=0.05, left=100.0) == 1000
    assert fitting(1000, 50, each=0.05, left=-3.0) == 51


def test_settings_change_the_recipe_and_unknown_ones_are_named() -> None:
    recipe = changed(Recipe(), ["rank=8", "tower_rate=1e-4"])
    assert (recipe.rank, recipe.tower_rate) == (8, 1e-4)
    with pytest.raises(ConfigError, match="--set rnk=8: there is no 'rnk'"):
        changed(Recipe(), ["rnk=8"])
    with pytest.raises(ConfigError, match="'much' is no number"):
        named_numbers("--seconds", ["tower=much"], STAGES)


def test_an_unknown_stage_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert train_smol.main(["--out", str(out), "--seconds", "towr=3"]) == 2
    assert "there is no 'towr'; it is one of joint, language, reading, tower" in capsys.readouterr().err
    assert not out.exists()


def test_words_of_a_list_are_plain_and_of_3_to_14_letters(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text(
        "A\nat\ncat\ncat\ncat's\néclair\nInternationally\nsyndicates\n" + "x" * 14 + "\n", encoding="utf-8"
    )
    assert read_words(words) == ["cat", "syndicates", "x" * 14]


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run of two steps a stage on a random base."""
    pytest.importorskip("gguf", reason="the base is a GGUF file: pip install gguf")
    from tiny_base import write_base

    monkeypatch.setattr(pools, "CHUNK", 4)
    tokens, merges = tiny_corpus.word_tokens()
    write_base(tmp_path / "base.gguf", tokens=tokens, merges=merges)
    tiny_corpus.stored().write(tmp_path / "earlier.json")
    words = tmp_path / "words.txt"
    words.write_text("\n".join(tiny_corpus.RARE), encoding="utf-8")
    sizes = {"rank": 3, "width": 64, "layers": 1, "own_phrases": 0, "kept": 4}
    sizes |= dict.fromkeys(("captions", "answers", "pairs", "texts"), 4) | {
        f"{stage}_steps": 2 for stage in STAGES
    }
    sizes |= dict.fromkeys(("tower_batch", "text_batch", "reading_captions", "reading_texts"), 2)
    sizes |= dict.fromkeys(("joint_captions", "joint_answers", "joint_pairs", "joint_texts"), 2)
    paths = {"base": "base.gguf", "out": "run", "corpus": "earlier.json", "words": "words.txt"}
    given = [part for name, path in paths.items() for part in (f"--{name}", str(tmp_path / path))]
    given += ["--fonts", str(tiny_corpus.fonts(tmp_path / "fonts")), "--device", "cpu", "--workers", "1"]
    return given + [part for name, value in sizes.items() for part in ("--set", f"{name}={value}")]


@pytest.mark.slow
def test_every_stage_leaves_a_file_and_is_not_done_again(
    tmp_path: Path, options: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    from shiftdc_eval.backbones.bundled.smol_delta import load_delta
    from shiftdc_eval.backbones.bundled.smol_merge import merge

    out = tmp_path / "run"
    caplog.set_level(logging.INFO)
    assert train_smol.main([*options, "--only-corpus"]) == 0
    assert {path.name for path in out.iterdir()} >= {"corpus.json", train_smol.TOKENIZER}
    assert not list(out.glob("tower.*"))
    made = (out / "corpus.json").stat().st_mtime_ns
    assert train_smol.main(options) == 0
    assert (out / "corpus.json").stat().st_mtime_ns == made
    corpus = Stored.read(out / "corpus.json")
    assert {t.text for t in corpus.topics} == {t.text for t in tiny_corpus.stored().topics}
    assert set(corpus.rare) == {w for w in tiny_corpus.RARE if len(w) <= 14}
    assert not corpus.overlap_checked
    log = json.loads((out / "joint.json").read_text(encoding="utf-8"))
    assert [(name, made["steps"]) for name, made in log["stages"].items()] == [(stage, 2) for stage in STAGES]
    assert {"characters", "tokens", "caption exact", "text exact"} <= log["stages"]["joint"]["score"].keys()
    assert log["stages"]["tower"]["rows"]["caption"] > 0

    first = load_delta(out / "delta.safetensors")
    merge(tmp_path / "base.gguf", first, tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()

    (out / "joint.json").unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in out.iterdir() if path.stem in STAGES[:3]}
    (out / "corpus.json").touch()
    caplog.clear()
    assert train_smol.main([*options, "--start", str(out / "delta.safetensors")]) == 0
    assert "tower: step" not in caplog.text
    assert "joint: step" in caplog.text
    assert kept == {name: (out / name).stat().st_mtime_ns for name in kept}
    assert json.loads((out / "joint.json").read_text(encoding="utf-8"))["start"] is None
    assert load_delta(out / "delta.safetensors").metadata["base_sha256"] == first.metadata["base_sha256"]
