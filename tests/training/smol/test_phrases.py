"""The phrases of training are told apart, whole, and near no benchmark."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from training.smol.corpus import phrases

SHARED = Path(__file__).parents[4] / "shared" / "data"
ALL = (*phrases.phrases(), *phrases.things())


def test_no_phrase_is_named_twice() -> None:
    assert [text for text, count in Counter(p.text.lower() for p in ALL).items() if count > 1] == []


def test_phrases_and_questions_are_filled_in_and_trimmed() -> None:
    for text in (*(p.text for p in ALL), *phrases.whole_questions()):
        assert text == " ".join(text.split())
        assert not set("{};|") & set(text), text


def test_both_kinds_are_there_in_numbers() -> None:
    counts = Counter((p.harmful, p.kind == "hard") for p in ALL)
    assert counts[True, False] > 1000
    assert counts[False, True] > 350


def test_a_tenth_of_the_phrases_is_held_out() -> None:
    share = sum(phrases.held_out(p.text) for p in ALL) / len(ALL)
    assert 0.07 < share < 0.13


def test_words_of_benign_phrases_are_no_harmful_words() -> None:
    benign = {w for p in ALL if not p.harmful for w in p.text.lower().split()}
    assert not phrases.harmful_words() & benign
    assert "murderer" in phrases.harmful_words()


def test_headings_and_questions_hold_the_phrase() -> None:
    rng = random.Random(0)
    for phrase in rng.sample(ALL, 200):
        assert phrase.text in phrases.heading(phrase, phrase.text, rng)
        assert phrase.text in phrases.question(phrase, phrase.text, rng)


@pytest.mark.slow
def test_no_phrase_or_question_is_near_an_item_of_a_benchmark() -> None:
    pytest.importorskip("rapidfuzz", reason="the overlap check needs it: pip install rapidfuzz")
    if not SHARED.is_dir():
        pytest.skip(f"the benchmarks are not there: {SHARED}")
    from training.smol.corpus.eval_items import eval_items
    from training.smol.corpus.overlap import overlapping

    texts = [*(p.text for p in ALL), *phrases.whole_questions()]
    assert [(pair.text, pair.item.text) for pair in overlapping(texts, eval_items(SHARED))] == []
