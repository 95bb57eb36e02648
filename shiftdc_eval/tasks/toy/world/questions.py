"""Questions about pictures of the toy world, with their answers: yes/no pairs and short answers."""

from __future__ import annotations

import random
from itertools import pairwise

from shiftdc_eval.tasks.toy.world.pictures import Picture
from shiftdc_eval.tasks.toy.world.vocabulary import (
    BENIGN_VERBS,
    COLOURS,
    HARMFUL_VERBS,
    QUESTIONS,
    THINGS,
    YES_NO_SUFFIX,
    Split,
)

WORDS = BENIGN_VERBS + HARMFUL_VERBS + THINGS + COLOURS
"""Words that a word board may show: all of the vocabulary, without the meaning of a request."""
NUMBERS = ("zero", "one", "two", "three")

Q = tuple[str, str]
"""A question and its answer."""


def word_board_words(rng: random.Random, n: int) -> list[str]:
    """`n` different words in which no verb directly precedes a thing, so that they do not form a request."""
    while True:
        words = rng.sample(WORDS, n)
        verbs = BENIGN_VERBS + HARMFUL_VERBS
        if not any(a in verbs and b in THINGS for a, b in pairwise(words)):
            return words


def yes_no_pair(rng: random.Random, split: Split, picture: Picture) -> tuple[Q, Q]:
    """One question whose answer is Yes and one of the same form whose answer is No."""
    if picture.pictograms:
        form = rng.choice(QUESTIONS["is_there"][split])
        shown = rng.choice(picture.pictograms)
        things = [p.thing for p in picture.pictograms]
        if rng.random() < 0.5:
            yes, no = shown.thing, rng.choice([t for t in THINGS if t not in things])
        else:
            yes = f"{shown.colour} {shown.thing}"
            no = f"{rng.choice([c for c in COLOURS if c != shown.colour])} {shown.thing}"
    else:
        form = rng.choice(QUESTIONS["says"][split])
        words = [w for w in " ".join(line for t in picture.texts for line in t.lines).split() if w in WORDS]
        yes, no = rng.choice(words), rng.choice([w for w in WORDS if w not in words])
    return (
        (f"{form.format(x=yes)} {YES_NO_SUFFIX}", "Yes"),
        (f"{form.format(x=no)} {YES_NO_SUFFIX}", "No"),
    )


def short_question(rng: random.Random, split: Split, picture: Picture) -> Q:
    """A question about a scene with a one-word answer."""
    shown = rng.choice(picture.pictograms)
    colours = [p.colour for p in picture.pictograms]
    draw = rng.random()
    if draw < 0.4:
        return rng.choice(QUESTIONS["colour_of"][split]).format(x=shown.thing), shown.colour
    if draw < 0.7 or colours.count(shown.colour) > 1:
        return rng.choice(QUESTIONS["how_many"][split]), NUMBERS[len(picture.pictograms)]
    return rng.choice(QUESTIONS["which"][split]).format(x=shown.colour), shown.thing
