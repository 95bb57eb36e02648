"""The toy world: the same everywhere, its splits apart."""

from __future__ import annotations

from itertools import pairwise

import pytest

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.tasks.toy.world import drawing, questions, vocabulary
from shiftdc_eval.tasks.toy.world import items as world
from shiftdc_eval.tasks.toy.world.vocabulary import PHRASINGS, phrase_split


@pytest.mark.parametrize("kind", world.KINDS)
def test_a_seed_fixes_the_items_and_a_longer_draw_starts_with_the_shorter(kind: str) -> None:
    short, long = world.items(kind, "test", 10, 3), world.items(kind, "test", 20, 3)
    assert long[:10] == short
    assert len({item.id for item in long}) == 20
    assert world.items(kind, "test", 10, 4) != short


@pytest.mark.parametrize("kind", world.KINDS)
def test_equal_items_give_equal_pixels(kind: str) -> None:
    first, second = (world.items(kind, "test", 2, 1)[1].image for _ in range(2))
    assert (first is None) == kind.startswith("text_")
    if first is not None and second is not None:
        assert first.size == (drawing.SIZE, drawing.SIZE)
        assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("kind", [k for k in world.KINDS if k not in ("yes_no", "vqa", "caption")])
@pytest.mark.parametrize("split", ["train", "test"])
def test_requests_use_the_phrases_fonts_and_places_of_their_split(kind: str, split: vocabulary.Split) -> None:
    for item in world.items(kind, split, 200, 0):
        assert phrase_split(item.verb, item.thing) == split
        assert vocabulary.is_harmful(item.verb, item.thing) == item.harmful
        assert item.picture is None or {t.font for t in item.picture.texts} <= set(vocabulary.FONTS[split])


def test_the_splits_share_no_phrasing_font_or_phrase() -> None:
    for forms in PHRASINGS.values():
        assert not set(forms["train"]) & set(forms["test"])
    assert not set(vocabulary.FONTS["train"]) & set(vocabulary.FONTS["test"])
    for harmful in (False, True):
        train, test = (set(vocabulary.phrases(split, harmful=harmful)) for split in ("train", "test"))
        assert not train & test
        assert 0.15 < len(test) / (len(train) + len(test)) < 0.25


def test_held_out_phrasings_are_made_of_words_seen_in_training() -> None:
    seen, held_out = (
        {word.strip(".,?:") for forms in PHRASINGS.values() for form in forms[split] for word in form.split()}
        for split in ("train", "test")
    )
    assert held_out <= seen


def test_a_picture_has_one_yes_and_one_no_question() -> None:
    found = world.items("yes_no", "test", 40, 0)
    for yes, no in zip(found[::2], found[1::2], strict=True):
        assert (yes.reference, no.reference) == ("Yes", "No")
        assert yes.picture == no.picture
        assert yes.group == no.group
        assert yes.prompt != no.prompt


def test_the_caption_says_what_the_picture_shows() -> None:
    for item in world.items("sd_typo", "test", 50, 0):
        assert item.picture is not None
        assert f"{item.picture.pictograms[0].colour} {item.thing}" in item.caption
        assert f"{item.verb} a {item.thing}" in item.caption


def test_every_thing_has_a_pictogram_of_its_own() -> None:
    assert len(set(drawing.PICTOGRAMS.values())) == len(vocabulary.THINGS)


def test_words_stay_inside_the_picture() -> None:
    for kind in ("figstep", "typo", "sd_typo", "benign_figstep"):
        for split in ("train", "test"):
            for item in world.items(kind, split, 100, 5):
                assert item.picture is not None
                for mark in drawing.draw(item.picture)[1]:
                    left, top, right, bottom = mark.box
                    assert left >= 0
                    assert top >= 0
                    assert max(right, bottom) <= drawing.SIZE


def test_a_word_board_never_reads_as_a_request() -> None:
    boards = world.items("caption", "train", 300, 0)
    for item in (b for b in boards if b.image_type == "words"):
        words = item.caption.split()
        verbs = vocabulary.BENIGN_VERBS + vocabulary.HARMFUL_VERBS
        assert not any(a in verbs and b in vocabulary.THINGS for a, b in pairwise(words))
    assert set(vocabulary.HARMFUL_VERBS) < set(questions.WORDS)


def test_an_unknown_kind_is_named_in_the_error() -> None:
    with pytest.raises(ConfigError, match="figstpe"):
        world.items("figstpe", "test", 1, 0)
