"""Answers to learn from are short, whole and free of the base's habits."""

from __future__ import annotations

import random

import pytest

from training.smol.corpus.cleaning import (
    cleaned_points,
    first_sentences,
    listed,
    names_a_task,
    sentences,
    three_points,
    without_numbering,
)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("1.1.1 - Step 1: Start early.", "Start early."),
        ("2.1.3: **Plan** the day.", "Plan the day."),
        ("Step 2: Choose the type of content", "Choose the type of content"),
        ("* - Wash it.", "Wash it."),
        ("Method 3 - use a rope.", "Use a rope."),
        ("(2) Sit down.", "Sit down."),
        ("30 minutes of rest.", "30 minutes of rest."),
        ("3.5% interest is fair.", "3.5% interest is fair."),
        ("Step-by-step guides help.", "Step-by-step guides help."),
    ],
)
def test_numbering_at_the_beginning_goes(given: str, left: str) -> None:
    assert without_numbering(given) == left


def test_a_list_is_cut_to_three_points() -> None:
    said = (
        "Sure!\n1. 1.1.1 - Step 1: Wash it.\n2. **Cut** it small. Then rest.\n3. Serve it warm.\n\nEnjoy it."
    )
    assert three_points(said) == "1. Wash it.\n2. Cut it small. Then rest.\n3. Serve it warm."


@pytest.mark.parametrize(
    "said",
    [
        "1. Wash it.\n2. Cut it.",
        "1. Wash it.\n2. Cut it.\n3. Serve it with some",
        "1. Wash it well.\n2. Wash it well.\n3. Serve it.",
        "1. 1.1.1\n2. 1.1.2\n3. 1.1.3\n\n",
        "1. 10% of it.\n2. 20% of it.\n3. 30% of it.\n\n",
        "1. I'm sorry, no.\n2. Ask me later.\n3. Serve it.\n\n",
        "1. Go on and on and on and on and on.\n2. Cut it.\n3. Serve it.\n\n",
    ],
    ids=["two points", "broken off", "alike", "only numbers", "figures", "declines", "loops"],
)
def test_lists_of_no_use_are_dropped(said: str) -> None:
    assert three_points(said) is None


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (
            "Use a new water filter - it is an idea that many people like but it has been proven to be very",
            "very",
        ),
        (
            "Having an open mindset can be just as important as all the skills in your field and can be",
            "and can be",
        ),
        (
            "Using cloud platforms which provide scalable infrastructure allowing businesses to store large",
            "large",
        ),
    ],
)
def test_a_sentence_that_was_broken_off_ends_with_a_clause(given: str, left: str) -> None:
    short = first_sentences(given + " and so much more that follows here", len(given) + 1)
    assert short.endswith(".")
    assert not short.endswith(f"{left}.")
    assert given.startswith(short[:-1])
    assert len(short) > 18


def test_whole_sentences_stay_as_they_are() -> None:
    assert first_sentences("Wash it. Cut it. Serve it now.", 20) == "Wash it. Cut it."
    assert first_sentences("Wash it.", 20) == "Wash it."


def test_the_number_of_a_point_that_did_not_come_goes() -> None:
    assert sentences("Do this: 1. Choose a room that fits; 2.") == "Do this: 1. Choose a room that fits."
    assert sentences("I am sorry, I cannot say.") is None
    assert sentences("I'm afraid I don't have the ability to write diaries. Try a notebook.") is None
    assert sentences("no end") is None


def test_cleaning_twice_changes_nothing() -> None:
    rng = random.Random(0)
    words = [
        "plan",
        "the",
        "garden",
        "with",
        "care",
        "and",
        "water",
        "it",
        "daily",
        "while",
        "roots",
        "that",
        "grow",
        "need",
        "some",
        "rest",
    ]
    kept = 0
    for _ in range(300):
        bodies = [
            f"Step {i}: " + " ".join(rng.sample(words, rng.randint(3, 15))).capitalize() + "."
            for i in (1, 2, 3)
        ]
        once = listed(bodies)
        if once is not None and cleaned_points(once) is not None:
            kept += 1
            assert cleaned_points(cleaned_points(once) or "") == cleaned_points(once)
    assert kept > 100


def test_only_what_begins_with_a_verb_is_a_task() -> None:
    assert names_a_task("bring flowers")
    assert names_a_task("plan a party")
    assert not names_a_task("of all ages trust")
    assert not names_a_task("planning a party")
