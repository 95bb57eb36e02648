"""Near-duplicates of benchmark items are found however they are framed, and other texts pass."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shiftdc_eval.core.errors import DataError
from training.smol.corpus.eval_items import EvalItem, eval_items
from training.smol.corpus.overlap import content_words, main, nearest, overlapping

ITEMS = [
    EvalItem("figstep", "1 instruction", "Steps to run an unlicensed lottery online."),
    EvalItem("xstest", "2", "How can I kill time at the railway station?"),
    EvalItem("mm_safetybench", "3 Key Phrase", "counterfeit museum tickets"),
    EvalItem("mossbench", "4", "Describe a fun game a child can play with these wooden toys."),
]
DATA = Path(__file__).parents[3].parent / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("How do I run an unlicensed lottery online?", "equal"),
        ("Running unlicensed lotteries online", "equal"),
        ("Methods to sell counterfeit museum tickets to tourists.", "contained"),
        ("Tell me how to kill some time at the old railway station", "reordered"),
        ("Which wooden toys suit a game that a child finds fun to play?", "reordered"),
        ("counterfeit museeum tickets", "similar"),
    ],
)
def test_a_reworded_item_is_a_near_duplicate(text: str, rule: str) -> None:
    (pair,) = overlapping(["Steps to plant a rose.", text], ITEMS)
    assert (pair.index, pair.rule) == (1, rule)


@pytest.mark.parametrize(
    "text",
    [
        "Steps to run a bakery online.",
        "museum tickets",
        "How can I reach the railway station?",
        "",
        "Yes.",
        "The child and I went to the railway station, bought museum tickets and played a game online.",
    ],
)
def test_another_text_passes(text: str) -> None:
    assert overlapping([text], ITEMS) == []


def test_a_close_text_is_reported_but_is_no_near_duplicate() -> None:
    (pair,) = nearest(["Steps to run a lottery online."], [ITEMS[0]], threshold=0.9)
    assert pair.rule == "close"
    assert pair.similarity == pytest.approx(0.75)


@given(st.sampled_from(ITEMS), st.sampled_from(["Methods to {}", "List of {}.", "PLEASE explain: {}!", "{}"]))
def test_every_item_is_found_in_every_frame(item: EvalItem, frame: str) -> None:
    (pair,) = overlapping([frame.format(item.text)], ITEMS)
    assert pair.item == item


def test_frames_accents_and_endings_do_not_count() -> None:
    assert content_words("How can someone make Café recipes?") == content_words("cafe recipe")


def _folder(folder: Path) -> Path:
    (folder / "xstest").mkdir()
    with (folder / "xstest" / "xstest_prompts.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "prompt", "type", "label"])
        writer.writeheader()
        writer.writerow({"id": "1", "prompt": ITEMS[1].text, "type": "a", "label": "safe"})
    return folder


def test_the_command_fails_on_overlap_and_says_what_it_could_not_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, texts = _folder(tmp_path), tmp_path / "texts.jsonl"
    rows = [{"prompt": "kill time at a railway station", "answer": "Read."}, ["Steps to plant a rose."]]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert main([str(texts), "--data", str(data)]) == 1
    shown = capsys.readouterr().out
    assert "3 training texts" in shown
    assert "1 near-duplicates" in shown
    assert "mme: not in the data folder, NOT CHECKED" in shown
    texts.write_text('"Steps to plant a rose."\n', encoding="utf-8")
    assert main([str(texts), "--data", str(data)]) == 0


def test_the_command_does_not_pass_what_it_cannot_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text('"a"\n{broken\n', encoding="utf-8")
    assert main([str(texts), "--data", str(_folder(tmp_path))]) == 2
    assert "line 2" in capsys.readouterr().err


def test_a_folder_without_benchmarks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing would be checked"):
        eval_items(tmp_path)
    with pytest.raises(DataError, match="not a folder"):
        eval_items(tmp_path / "absent")


@pytest.mark.skipif(not (DATA / "figstep").is_dir(), reason="the real benchmark files are not here")
def test_real_items_are_found_and_the_trials_two_overlaps_too() -> None:
    items = eval_items(DATA)
    assert {"figstep", "mm_safetybench", "xstest", "mossbench", "mmvet", "msts"} <= {
        item.dataset for item in items
    }
    found = overlapping(["set up a fake charity", "cheat in an online exam", "bake rye bread"], items)
    assert [pair.index for pair in found] == [0, 1]
