"""The phrases that training is made of: harmful ones, benign ones, and benign ones that look harmful."""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

HEADINGS = (
    "Steps to {}.",
    "Methods to {}.",
    "List of ways to {}.",
    "Ways to {}.",
    "Tips to {}.",
    "How to {}.",
    "Tricks to {}.",
    "A plan to {}.",
    "Techniques to {}.",
    "List of ideas to {}.",
    "Guide to {}.",
    "List of things needed to {}.",
)
QUESTIONS = (
    "How do I {}?",
    "How can someone {}?",
    "What is the best way to {}?",
    "Explain how to {}.",
    "Give me tips on how to {}.",
    "Can you tell me how to {}?",
    "Teach me to {}.",
    "What are some ways to {}?",
    "Write a short guide on how to {}.",
    "I want to {}. How do I do it?",
    "Is there an easy method to {}?",
    "Describe in detail how to {}.",
    "How could a person {}?",
    "Help me {}.",
    "What are effective methods to {}?",
    "Develop a strategy to {}.",
    "What do I need to {}?",
)
MORE_QUESTIONS = (
    "How do you {}?",
    "How can I {}?",
    "Can you guide me on how to {}?",
    "Can you suggest some ways to {}?",
    "What methods can I use to {}?",
    "Which tools do people use to {}?",
    "Can you help me to {}?",
    "How do people {}?",
    "What's the easiest way to {}?",
    "What steps are needed to {}?",
    "List some ways to {}.",
    "Outline a plan to {}.",
    "What would it take to {}?",
    "Suggest methods to {}.",
    "How does one {}?",
    "Provide instructions to {}.",
    "Which tricks work to {}?",
    "What are the steps to {}?",
)
THING_HEADINGS = (
    "List of {}.",
    "A list of {}.",
    "Three {}.",
    "Some {}.",
    "Examples of {}.",
    "The best {}.",
    "Popular {}.",
)
THING_QUESTIONS = (
    "What are some {}?",
    "Can you list {}?",
    "Name a few {}.",
    "Can you provide me with {}?",
    "Tell me about {}.",
    "Which are the best {}?",
    "Where can I find {}?",
    "I need {}. What do you suggest?",
    "Give me a list of {}.",
    "Do you know any {}?",
)
NAME_HEADINGS = (
    "A guide to {}.",
    "Tips for {}.",
    "Three points about {}.",
    "What is needed for {}.",
    "Ideas for {}.",
)
NAME_QUESTIONS = (
    "What do I need for {}?",
    "What should I know about {}?",
    "Give me tips for {}.",
    "Explain {}.",
    "Help me with {}.",
    "Where do I begin with {}?",
    "Tell me more about {}.",
)
LIST_REQUESTS = (
    "{}",
    "Write a list: {}",
    "{} 1. 2. 3.",
    "Write three short items. {}",
    "Complete this list. {}",
    "{} Give me three points.",
)


@dataclass(frozen=True)
class Phrase:
    """One thing to do, as a verb phrase in its base form."""

    text: str
    harmful: bool
    kind: str
    """The topic of a harmful one; `benign`, `hard` or `made` (by the base model); `thing` or `name` of both."""


@cache
def _data() -> dict[str, Any]:
    text = (files("training.smol") / "phrases.yaml").read_text(encoding="utf-8")
    data: dict[str, Any] = yaml.safe_load(text)
    return data


def _expand(lines: list[str]) -> list[str]:
    found = []
    for line in lines:
        verb, objects = line.split("|")
        found += [f"{verb.strip()} {thing.strip()}" for thing in objects.split(";")]
    return found


@cache
def phrases() -> tuple[Phrase, ...]:
    """Every phrase of the data file, without tails."""
    data = _data()
    harmful = [Phrase(p, True, topic) for topic, lines in data["harmful"].items() for p in _expand(lines)]
    harmful += [Phrase(p, True, "more") for p in _expand(data["more_harmful"])]
    benign = [Phrase(p, False, kind) for kind in ("benign", "hard") for p in _expand(data[kind])]
    return (*harmful, *benign)


def tails(*, harmful: bool) -> list[str]:
    """Endings that may follow a phrase."""
    found: list[str] = _data()["tails"]["harmful" if harmful else "benign"]
    return found


@cache
def things() -> tuple[Phrase, ...]:
    """Every noun phrase: of kind `thing` when it can be listed, `name` when it names an activity or a product."""
    return tuple(
        Phrase(text.strip(), name == "harmful", kind)
        for kind in ("thing", "name")
        for name in ("harmful", "benign")
        for text in _data()[f"{kind}s"][name].split(";")
    )


def gerund(text: str) -> str:
    """A verb phrase as the name of an activity: `steal a base` gives `stealing a base`."""
    verb, _, rest = text.partition(" ")
    short = re.fullmatch("[^aeiou]*[aeiou][^aeiouwxy]", verb)
    if short or verb in {"commit", "eavesdrop", "kidnap", "wiretap"}:
        verb += verb[-1]
    elif verb.endswith("ic"):
        verb += "k"
    elif verb.endswith("ie"):
        verb = f"{verb[:-2]}y"
    elif verb.endswith("e") and not verb.endswith(("ee", "oe", "ye")):
        verb = verb[:-1]
    return f"{verb}ing {rest}"


def heading(phrase: Phrase, text: str, rng: random.Random) -> str:
    """A heading over a list about a phrase; `text` is the phrase with its tail."""
    if phrase.kind == "thing":
        return rng.choice(THING_HEADINGS).format(text)
    if phrase.kind == "name":
        return rng.choice(NAME_HEADINGS).format(text)
    # the two commonest forms of such lists make up half of the headings
    return (rng.choice(HEADINGS[:2]) if rng.random() < 0.45 else rng.choice(HEADINGS)).format(text)


def question(phrase: Phrase, text: str, rng: random.Random) -> str:
    """A question or request about a phrase."""
    if phrase.kind == "thing":
        return rng.choice(THING_QUESTIONS).format(text)
    if phrase.kind == "name":
        return rng.choice(NAME_QUESTIONS).format(text)
    return rng.choice(QUESTIONS + MORE_QUESTIONS).format(text)


def held_out(text: str) -> bool:
    """True for the tenth of the phrases that training never sees."""
    return hashlib.sha256(text.encode()).digest()[0] < 26


@cache
def whole_questions() -> tuple[str, ...]:
    """Benign questions about harm: words, history, games, public facts."""
    data = _data()

    def split(name: str) -> list[str]:
        return [word.strip() for word in data[name].split(";")]

    found = [q.format(word=w) for q in data["questions"] for w in dict.fromkeys(split("words"))]
    found += [q.format(place=p) for q in data["history"] for p in split("places")]
    games = split("game_names")
    found += [  # a third of the games for each deed, or these would be half of all questions
        q.format(game=g, deed=d)
        for q in data["games"]
        for i, d in enumerate(split("deeds"))
        for g in games[i % 3 :: 3]
    ]
    found += [q.format(country=c) for q in data["people_privacy"] for c in split("countries")]
    for more in data["more_questions"]:
        first, second = ([word.strip() for word in more[name].split(";")] for name in ("a", "b"))
        found += [more["form"].format(a=a, b=b) for a in first for b in second]
    return tuple(found)


EVERYDAY = frozenset((files("training.smol") / "everyday_words.txt").read_text(encoding="utf-8").split())
"""Words of harmful phrases that are harmless by themselves."""
SUSPECT = frozenset((files("training.smol") / "suspect_words.txt").read_text(encoding="utf-8").split())
"""Words that keep a phrase made by the base model out of the benign ones."""


@cache
def harmful_words() -> frozenset[str]:
    """Content words of the harmful phrases that no benign phrase has."""

    def words(harmful: bool) -> set[str]:
        return {
            w
            for p in (*phrases(), *things())
            if p.harmful is harmful
            for w in re.findall(r"[a-z]+", p.text.lower())
        }

    return frozenset(w for w in words(True) - words(False) - EVERYDAY if len(w) > 2)


def suspect(text: str) -> bool:
    """True when a text has a word that could make it a harmful request."""
    return bool(SUSPECT & set(re.findall(r"[a-z]+", text.lower())))


def with_tail(phrase: Phrase, rng: random.Random, share: float) -> str:
    """The phrase, with a tail in `share` of the cases."""
    if phrase.kind in {"hard", "made", "thing", "name", "request"} or rng.random() >= share:
        return phrase.text
    return f"{phrase.text} {rng.choice(tails(harmful=phrase.harmful))}"
