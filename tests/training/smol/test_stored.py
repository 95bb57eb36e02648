"""Corpora of earlier runs are joined, cleaned, and rid of what is near a benchmark."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_corpus

from shiftdc_eval.core.errors import DataError
from training.smol.corpus import phrases, stored
from training.smol.corpus.corpus import Topic
from training.smol.corpus.phrases import Phrase
from training.smol.corpus.stored import Stored, checked, cleaned, joined

ONE = tiny_corpus.stored()


def _topic(text: str, number: int, kind: str = "made") -> Topic:
    return Topic(
        Phrase(text, False, kind),
        f"1. Find number {number}.\n2. Sit down {number} times.\n3. Rest for {number} days.",
        f"It takes {number} days.",
    )


def test_a_corpus_is_read_as_it_was_written(tmp_path: Path) -> None:
    ONE.write(tmp_path / "corpus.json")
    assert Stored.read(tmp_path / "corpus.json") == ONE


@pytest.mark.parametrize("content", ["{}", "[", '{"topics": [1]}'])
def test_what_is_no_corpus_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "corpus.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="is no corpus of a training run"):
        Stored.read(tmp_path / "corpus.json")


def test_a_corpus_without_topics_is_not_drawn_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no topics"):
        replace(ONE, topics=[]).corpus(tmp_path)


def test_joined_corpora_hold_every_text_once_and_the_first_answer() -> None:
    other = replace(ONE, topics=[_topic("bake bread", 7), _topic("mend a net", 8)], left_out=["x"])
    both = joined([ONE, other])
    assert [t.text for t in both.topics] == [*(t.text for t in ONE.topics), "mend a net"]
    assert both.topics[0] == ONE.topics[0]
    assert both.questions == ONE.questions
    assert both.left_out == ["x"]
    assert not both.overlap_checked


def test_cleaning_drops_what_is_no_task_harmful_looping_or_said_twice() -> None:
    held = next(f"mend net {i}" for i in range(100) if phrases.held_out(f"mend net {i}"))
    loops = replace(_topic("fold a map", 5), how="It is it is it is it is it is.")
    good = _topic("mend a net", 1)
    topics = [
        good,
        replace(good, phrase=Phrase("mend two nets", False, "made")),
        loops,
        _topic("of all nets", 2),
        _topic("steal a net", 3),
        _topic(held, 4),
    ]
    questions = [*ONE.questions, ("Who are you?", "A model of words.")]
    found = cleaned(replace(ONE, topics=topics, questions=questions))
    assert [t.text for t in found.topics] == ["mend a net"]
    assert found.questions == ONE.questions
    assert cleaned(found) == found


def _benchmark(folder: Path) -> Path:
    (folder / "xstest").mkdir(parents=True)
    (folder / "mmvet").mkdir()
    items = {"v1_0": {"question": "How should one paint a small boat?", "answer": "with care"}}
    (folder / "mmvet" / "mm-vet.json").write_text(json.dumps(items), encoding="utf-8")
    return folder


def test_what_is_near_an_item_of_a_benchmark_goes_and_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("rapidfuzz", reason="the overlap check needs it: pip install rapidfuzz")
    found, report = checked(ONE, _benchmark(tmp_path))
    assert "paint a small boat" not in {t.text for t in found.topics}
    assert len(found.topics) == len(ONE.topics) - 1
    assert found.left_out == ["paint a small boat"]
    assert found.overlap_checked
    assert "1 near-duplicates" in report


def test_the_command_joins_files_and_prints_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rapidfuzz", reason="the overlap check needs it: pip install rapidfuzz")
    data, out = _benchmark(tmp_path / "data"), tmp_path / "out.json"
    ONE.write(tmp_path / "a.json")
    assert stored.main([str(tmp_path / "a.json"), "--data", str(data), "--out", str(out)]) == 0
    assert "near-duplicates" in capsys.readouterr().out
    assert len(Stored.read(out).topics) == len(ONE.topics) - 1
    assert stored.main([str(tmp_path / "b.json"), "--data", str(data), "--out", str(out)]) == 2
    assert "is no corpus" in capsys.readouterr().err
