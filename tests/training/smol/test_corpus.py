"""What the small model is trained on, and above all what it is not."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import tiny_corpus

from training.smol.corpus import corpus as recipe
from training.smol.corpus import forms, phrases
from training.smol.corpus.corpus import Corpus, Example, caption
from training.smol.corpus.repetition import looping
from training.smol.corpus.requests import REFUSALS, STRIP_QUALIFIERS, STRIP_REQUESTS

DRAWS = 3000
HARMFUL = [p.text for p in (*phrases.phrases(), *phrases.things()) if p.harmful]
GERUNDS = [phrases.gerund(p.text) for p in phrases.phrases() if p.harmful]
HARMFUL_PADDED = [f" {re.sub(r'[^a-z0-9]+', ' ', text.lower())} " for text in HARMFUL + GERUNDS]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return tiny_corpus.stored().corpus(tiny_corpus.fonts(tmp_path_factory.mktemp("fonts")))


@pytest.fixture(scope="module")
def pictured(corpus: Corpus) -> list[Example]:
    rng = random.Random(1)
    return [corpus.caption_example(rng) for _ in range(DRAWS)] + [
        make(rng) for make in (corpus.answer_example, corpus.pair_example) for _ in range(DRAWS)
    ]


@pytest.fixture(scope="module")
def texts(corpus: Corpus) -> list[Example]:
    rng = random.Random(2)
    return [corpus.text_example(rng) for _ in range(DRAWS)]


def _asks_for_harm(text: str) -> bool:
    padded = f" {re.sub(r'[^a-z0-9]+', ' ', text.lower())} "
    return any(phrase in padded for phrase in HARMFUL_PADDED)


def test_a_harmful_phrase_stands_on_or_beside_a_picture_only_where_it_is_judged(
    pictured: list[Example],
) -> None:
    shown = {p.text for e in pictured for p in e.pictures}
    assert len(shown) > DRAWS / 2
    told = {
        t for e in pictured if e.kind != "judged" for t in (e.prompt, e.answer, *(p.text for p in e.pictures))
    }
    assert [t for t in told if _asks_for_harm(t)] == []
    judged = [e for e in pictured if e.kind == "judged"]
    assert {e.answer for e in judged} == {"Yes.", "No."}
    harmful = sum(_asks_for_harm(p.text) for e in judged for p in e.pictures)
    assert 0.4 < harmful / len(judged) < 0.6


def _shown(some: Iterable[phrases.Phrase]) -> set[str]:
    """The phrases as pictures show them, in lower case: as they are, and verb phrases as gerunds."""
    found = list(some)
    gerunds = {phrases.gerund(p.text).lower() for p in found if p.kind not in {"thing", "name", "request"}}
    return {p.text.lower() for p in found} | gerunds


def test_the_check_above_would_find_one() -> None:
    assert _asks_for_harm("Steps to Steal a bicycle.")
    assert _asks_for_harm("stealing a bicycle")
    assert not _asks_for_harm("Steps to steal the show.")


def test_a_request_to_act_on_a_picture_is_always_about_a_benign_topic(
    corpus: Corpus, pictured: list[Example]
) -> None:
    known = _shown(t.phrase for t in corpus.topics)
    asked = [e for e in pictured if e.kind == "answer"]
    assert len(asked) > DRAWS / 2
    for example in asked:
        assert any(text in example.pictures[-1].text.lower() for text in known)
        assert example.answer in {a for t in corpus.topics for a in (t.points, t.how)}


def test_nothing_is_refused_beside_a_picture(pictured: list[Example]) -> None:
    assert not {e.answer for e in pictured} & set(REFUSALS)


def test_a_salad_has_at_most_one_word_of_the_harmful_phrases(corpus: Corpus) -> None:
    rng, suspicious = random.Random(3), phrases.harmful_words() | phrases.SUSPECT
    counts = [sum(w.lower() in suspicious for w in corpus.salad.draw(rng).split()) for _ in range(2000)]
    assert max(counts) == 1
    assert 0.25 < sum(counts) / len(counts) < 0.45


def test_a_caption_names_the_whole_text_of_its_picture(pictured: list[Example]) -> None:
    captions = [e for e in pictured if e.kind == "caption"]
    assert {len(e.pictures) for e in captions} == {1, 2}
    for example in captions:
        assert example.answer in {caption(picture) for picture in example.pictures}
        assert any(f'"{picture.text}"' in example.answer for picture in example.pictures)


def _runs(text: str, length: int) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", text.lower())
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def test_no_wording_shares_five_words_in_a_row_with_a_prompt_of_a_defense() -> None:
    import yaml

    import shiftdc_eval.defenses

    path = Path(shiftdc_eval.defenses.__file__).with_name("prompts.yaml")
    prompts = yaml.safe_load(path.read_text(encoding="utf-8"))
    # FigStep's own request, which AdaShield's authors repeat, is a benchmark's, not a defense's
    own = {name: one["text"] for name, one in prompts.items() if name != "adashield_figstep_request"}
    taken = {run: name for name, text in own.items() for run in _runs(re.sub(r"\{\w+\}", "X", text), 5)}
    data = yaml.safe_load((Path(forms.__file__).parents[1] / "forms.yaml").read_text(encoding="utf-8"))
    wordings = [
        w for kind in data.values() for one in kind for w in (one if isinstance(one, list) else [one])
    ]
    assert len(wordings) > 120
    assert "shiftdc_caption" in taken.values()
    shared = [(taken[run], w) for w in wordings for run in _runs(w, 5) if run in taken]
    assert shared == []
    assert not [w for w in wordings if "image caption:" in w.lower() or "hints" in w.lower()]


def test_twenty_wordings_ask_for_a_description_of_what_a_request_is_about() -> None:
    assert len(set(forms.forms("captions_asked"))) == 20


def test_yes_and_no_are_true(pictured: list[Example], texts: list[Example]) -> None:
    answers = []
    for example in pictured + texts:
        asked = re.search(r'the word "(\w+)"', example.prompt)
        if example.kind != "yes_no" or asked is None:
            continue
        shown = example.pictures[0].text if example.pictures else re.split("Description: ", example.prompt)[1]
        words = re.findall(
            r"[a-z]+", shown.lower() if example.pictures else re.search('"(.*)"', shown)[1].lower()
        )
        assert example.answer == ("Yes." if asked[1].lower() in words else "No.")
        answers.append(example.answer)
    assert len(answers) > 300
    assert 0.3 < answers.count("Yes.") / len(answers) < 0.7


def _is(name: str, prompt: str) -> bool:
    """Whether a prompt is of one of the wordings of a kind."""
    pieces = [re.split(r"\{\w*\}", form) for form in forms.forms(name)]
    return any(all(piece in prompt for piece in form) for form in pieces)


def test_a_judgement_says_what_is_on_the_picture_in_the_request_and_in_the_answer(
    corpus: Corpus, pictured: list[Example], texts: list[Example]
) -> None:
    harmful = _shown(corpus.harmful)
    judged = [e for e in pictured + texts if e.kind == "judged"]
    assert len(judged) > 600
    for example in judged:
        said = " ".join((example.prompt, *(p.text for p in example.pictures))).lower()
        bad = any(text in said for text in harmful) and not any(r in example.prompt for r in REFUSALS)
        fine = any(_is(f"{what}_fine", example.prompt) for what in ("answer", "request", "picture"))
        assert example.answer == ("Yes." if bad != fine else "No."), example.prompt
    yes = sum(e.answer == "Yes." for e in judged) / len(judged)
    assert 0.4 < yes < 0.6


def test_a_condition_holds_exactly_when_its_word_is_there(
    pictured: list[Example], texts: list[Example]
) -> None:
    conditions = [e for e in pictured + texts if e.kind == "condition"]
    assert len(conditions) > 200
    for example in conditions:
        word = re.search(r'the word "(\w+)"', example.prompt)[1].lower()
        shown = example.pictures[0].text if example.pictures else example.prompt.split('the words "')[-1]
        if not example.pictures:
            shown = re.search(r'shows the (?:text|words) "(.*?)"', example.prompt)[1]
        assert (example.answer in forms.forms("replies")) == (word in re.findall("[a-z]+", shown.lower()))


def test_two_pictures_show_the_same_words_when_yes_is_said(pictured: list[Example]) -> None:
    same = [e for e in pictured if e.kind == "same"]
    assert 0.3 < sum(e.answer == "Yes." for e in same) / len(same) < 0.75
    for example in same:
        first, second = ({w for w in re.findall("[a-z]+", p.text.lower())} for p in example.pictures)
        if example.answer == "Yes.":
            assert len(first & second) >= 2
        else:
            assert first != second


def test_a_system_prompt_or_an_instruction_changes_no_answer(corpus: Corpus, texts: list[Example]) -> None:
    with_system = [e for e in texts if e.system]
    assert 0.05 < len(with_system) / len(texts) < 0.15
    kinds = {
        (e.kind, "careful" if e.system in forms.forms("system_careful") else "plain") for e in with_system
    }
    assert kinds >= {(kind, set_) for kind in ("refused", "benign") for set_ in ("careful", "plain")}
    assert all(e.answer not in REFUSALS for e in with_system if e.kind != "refused")
    assert any(e.earlier for e in texts)


def test_a_request_in_words_is_refused_exactly_when_it_asks_for_harm(
    corpus: Corpus, texts: list[Example]
) -> None:
    harmful = _shown(corpus.harmful)
    asked = [e for e in texts if e.kind in {"refused", "benign", "question"}]
    for example in asked:
        asks = any(text in example.prompt.lower() for text in harmful)
        assert asks == (example.answer in REFUSALS), example.prompt
    assert 0.35 < sum(e.answer in REFUSALS for e in asked) / len(asked) < 0.55


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


MANY = 20_000


@pytest.fixture(scope="module")
def asked(corpus: Corpus) -> list[Example]:
    rng = random.Random(6)
    return [corpus.answer_example(rng) for _ in range(MANY)]


def _share(some: Iterable[bool]) -> float:
    found = list(some)
    return sum(found) / len(found)


def test_answer_rows_have_the_shares_that_the_constants_say(asked: list[Example]) -> None:
    """Four standard deviations of 20,000 draws are 0.014 at most; of the subsets 0.05."""
    kinds = Counter(e.kind for e in asked)
    assert kinds["judged"] / MANY == pytest.approx(recipe.JUDGED, abs=0.014)
    assert (kinds["answer"] + kinds["condition"]) / MANY == pytest.approx(0.9 - recipe.JUDGED, abs=0.014)
    acted = [e.pictures[0].kind for e in asked if e.kind in {"answer", "condition"}]
    assert acted.count("board") / len(acted) == pytest.approx(recipe.ACTED_BOARDS, abs=0.014)
    judged = [e.pictures[0].text for e in asked if e.kind == "judged"]
    assert _share(map(_asks_for_harm, judged)) == pytest.approx(recipe.JUDGED_HARMFUL, abs=0.05)


def test_pictures_that_are_acted_on_look_harmful_as_often_as_the_constant_says(
    corpus: Corpus, asked: list[Example]
) -> None:
    look, plain = (
        [t for t in corpus.topics if (t.phrase.kind in recipe.LOOK_HARMFUL) is x] for x in (True, False)
    )
    drawn = recipe.ACTED_HARD + (1 - recipe.ACTED_HARD) * len(look) / (len(look) + len(plain))
    answers = {a for t in look for a in (t.points, t.how)}
    acted = [e.answer in answers for e in asked if e.kind == "answer"]
    assert _share(acted) == pytest.approx(drawn, abs=0.02)


def test_strips_that_are_acted_on_are_qualified_and_gerunds_as_often_as_the_constants_say(
    corpus: Corpus, asked: list[Example]
) -> None:
    strips = [e for e in asked if e.kind == "answer" and e.pictures[0].kind == "strip"]
    qualified = _share(any(q in e.prompt for q in STRIP_QUALIFIERS) for e in strips)
    assert qualified == pytest.approx(recipe.QUALIFIED, abs=0.025)
    verbs = [t.phrase for t in corpus.topics if t.phrase.kind in {"benign", "hard"}]
    gerunds = {phrases.gerund(p.text).lower() for p in verbs}
    shown = [e.pictures[0].text.lower() for e in strips]
    mine = [text for text in shown if text in gerunds | {p.text.lower() for p in verbs}]
    assert _share(text in gerunds for text in mine) == pytest.approx(recipe.GERUNDS, abs=0.03)


def test_pairs_of_pictures_have_no_qualifier_and_no_gerund(corpus: Corpus, pictured: list[Example]) -> None:
    acted = [e for e in pictured if len(e.pictures) == 2 and e.kind != "caption"]
    assert len(acted) > DRAWS / 3
    verbs = [t.phrase for t in corpus.topics if t.phrase.kind in {"benign", "hard"}]
    gerunds = {phrases.gerund(p.text) for p in verbs}
    assert not [e for e in acted if any(q in e.prompt for q in STRIP_QUALIFIERS)]
    assert not [p.text for e in acted for p in e.pictures if p.text.lower() in gerunds]


def test_a_phrase_that_looks_harmful_is_never_judged_harmful(corpus: Corpus, asked: list[Example]) -> None:
    look = _shown(t.phrase for t in corpus.hard)
    seen = 0
    for example in asked:
        if example.kind == "judged" and any(t in example.pictures[0].text.lower() for t in look):
            fine = any(_is(f"{what}_fine", example.prompt) for what in ("answer", "request", "picture"))
            assert (example.answer == "Yes.") == fine, example
            seen += 1
    assert seen > 100


def test_no_request_to_act_comes_with_a_harmful_phrase_on_its_picture(asked: list[Example]) -> None:
    acted = [e for e in asked if e.kind != "judged"]
    assert not [e for e in acted if any(_asks_for_harm(p.text) for p in e.pictures)]
    assert {p.kind for e in acted for p in e.pictures} == {"board", "strip"}


def test_no_qualifier_or_request_about_a_strip_names_a_topic() -> None:
    assert not [t for t in (*STRIP_REQUESTS, *STRIP_QUALIFIERS) if _asks_for_harm(t) or phrases.suspect(t)]


@pytest.mark.parametrize(
    ("verb_phrase", "named"),
    [
        ("steal a base", "stealing a base"),
        ("hit the brakes", "hitting the brakes"),
        ("lie under oath", "lying under oath"),
        ("traffic ivory", "trafficking ivory"),
        ("eavesdrop on a jury", "eavesdropping on a jury"),
        ("flee a flood", "fleeing a flood"),
        ("sew a bag", "sewing a bag"),
        ("knock off early", "knocking off early"),
        ("visit Paris", "visiting Paris"),
    ],
)
def test_a_verb_phrase_has_a_gerund(verb_phrase: str, named: str) -> None:
    assert phrases.gerund(verb_phrase) == named
