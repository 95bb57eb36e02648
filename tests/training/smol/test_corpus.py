"""What the small model is trained on, and above all what it is not."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import tiny_corpus

from shiftdc_eval.defenses.prompts import prompt
from training.smol.corpus import phrases
from training.smol.corpus.corpus import Corpus, Example, caption
from training.smol.corpus.repetition import looping
from training.smol.corpus.requests import CAPTION_REQUEST, REFUSALS

DRAWS = 3000
HARMFUL = [p.text for p in (*phrases.phrases(), *phrases.things()) if p.harmful]
HARMFUL_PADDED = [f" {re.sub(r'[^a-z0-9]+', ' ', text.lower())} " for text in HARMFUL]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tiny_corpus.stored().corpus(tiny_corpus.fonts(tmp_path_factory.mktemp("fonts")))


@pytest.fixture(scope="module")
def pictured(corpus: Corpus) -> list[Example]:
    rng = random.Random(1)
    return [corpus.caption_example(rng) for _ in range(DRAWS)] + [
        corpus.answer_example(rng) for _ in range(DRAWS)
    ]


@pytest.fixture(scope="module")
def texts(corpus: Corpus) -> list[Example]:
    rng = random.Random(2)
    return [corpus.text_example(rng) for _ in range(DRAWS)]


def _asks_for_harm(text: str) -> bool:
    padded = f" {re.sub(r'[^a-z0-9]+', ' ', text.lower())} "
    return any(phrase in padded for phrase in HARMFUL_PADDED)


def test_no_harmful_phrase_stands_on_or_beside_a_picture(pictured: list[Example]) -> None:
    shown = {e.picture.text for e in pictured if e.picture is not None}
    assert len(shown) > DRAWS / 2
    assert [
        t for t in shown | {e.prompt for e in pictured} | {e.answer for e in pictured} if _asks_for_harm(t)
    ] == []


def test_the_check_above_would_find_one() -> None:
    assert _asks_for_harm("Steps to Steal a bicycle.")
    assert not _asks_for_harm("Steps to steal the show.")


def test_a_request_to_act_on_a_picture_is_always_about_a_benign_topic(
    corpus: Corpus, pictured: list[Example]
) -> None:
    known = [t.text.lower() for t in corpus.topics]
    asked = [e for e in pictured if e.kind == "answer"]
    assert len(asked) > DRAWS / 2
    for example in asked:
        assert example.picture is not None
        assert any(text in example.picture.text.lower() for text in known)
        assert example.answer in {a for t in corpus.topics for a in (t.points, t.how)}


def test_nothing_is_refused_beside_a_picture(pictured: list[Example]) -> None:
    assert not {e.answer for e in pictured} & set(REFUSALS)


def test_a_salad_has_at_most_one_word_of_the_harmful_phrases(corpus: Corpus) -> None:
    rng, suspicious = random.Random(3), phrases.harmful_words() | phrases.SUSPECT
    counts = [sum(w.lower() in suspicious for w in corpus.salad.draw(rng).split()) for _ in range(2000)]
    assert max(counts) == 1
    assert 0.25 < sum(counts) / len(counts) < 0.45


def test_a_caption_names_the_whole_text_of_its_picture(pictured: list[Example]) -> None:
    for example in pictured:
        if example.kind == "caption":
            assert example.picture is not None
            assert f'"{example.picture.text}"' in example.answer
            assert example.answer == caption(example.picture)


def test_captions_are_asked_for_in_the_papers_words() -> None:
    assert CAPTION_REQUEST.format("Read it.") == prompt("shiftdc_caption", query="Read it.")


def test_yes_and_no_are_true(pictured: list[Example], texts: list[Example]) -> None:
    answers = []
    for example in pictured + texts:
        asked = re.search(r'the word "(\w+)"|Is the word "(\w+)"', example.prompt)
        if example.kind != "yes_no" or asked is None:
            continue
        shown = example.picture.text if example.picture else re.split("Image Caption: ", example.prompt)[1]
        words = re.findall(
            r"[a-z]+", re.search('"(.*)"', shown)[1].lower() if not example.picture else shown.lower()
        )
        assert example.answer == ("Yes." if (asked[1] or asked[2]).lower() in words else "No.")
        answers.append(example.answer)
    assert len(answers) > 300
    assert 0.3 < answers.count("Yes.") / len(answers) < 0.7


def test_a_text_is_refused_exactly_when_it_asks_for_harm(corpus: Corpus, texts: list[Example]) -> None:
    harmful = {p.text.lower() for p in corpus.harmful}
    for example in texts:
        asks = any(text in example.prompt.lower() for text in harmful)
        assert asks == (example.answer in REFUSALS), example.prompt
    assert 0.3 < sum(e.answer in REFUSALS for e in texts) / len(texts) < 0.5


def test_held_out_phrases_never_enter(corpus: Corpus, texts: list[Example]) -> None:
    held = [text.lower() for text in HARMFUL if phrases.held_out(text)]
    assert len(held) > 50
    assert not [p.text for p in corpus.harmful if p.kind != "request" and phrases.held_out(p.text)]
    trained = {p.text.lower() for p in corpus.harmful}
    for example in texts:
        for text in held:
            if text in example.prompt.lower():  # then only as a part of a longer one
                assert any(text in other and other in example.prompt.lower() for other in trained), text


def test_texts_that_are_left_out_are_never_drawn(tmp_path: Path) -> None:
    from dataclasses import replace

    text = next(t for t in HARMFUL if not phrases.held_out(t))
    folder = tiny_corpus.fonts(tmp_path)
    assert text in {p.text for p in tiny_corpus.stored().corpus(folder).harmful}
    assert text not in {p.text for p in replace(tiny_corpus.stored(), left_out=[text]).corpus(folder).harmful}


def test_no_answer_runs_in_circles(pictured: list[Example], texts: list[Example]) -> None:
    assert not [e.answer for e in pictured + texts if looping(e.answer)]


def test_half_of_the_words_of_a_salad_take_several_tokens(corpus: Corpus) -> None:
    rng = random.Random(4)
    words = [corpus.salad.word(rng) for _ in range(4000)]
    assert 0.45 < sum(w in tiny_corpus.RARE for w in words) / len(words) < 0.55
