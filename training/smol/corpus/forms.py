"""The wordings of the trained skills, from `forms.yaml`; none is a defense's own."""

from __future__ import annotations

import random
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def forms(name: str) -> tuple[str, ...]:
    """The wordings of one kind."""
    return tuple(_data()[name])


@cache
def greetings() -> tuple[tuple[str, str], ...]:
    """Earlier turns: what the user and the assistant said."""
    return tuple((user, assistant) for user, assistant in _data()["greetings"])


def one(name: str, rng: random.Random) -> str:
    """One wording of a kind."""
    return rng.choice(forms(name))


def around(name: str, request: str, rng: random.Random) -> str:
    """A request within an instruction; some instructions say the request twice."""
    return one(name, rng).replace("{}", request)


def helping(phrase: str, rng: random.Random, *, named: bool = True) -> str:
    """An answer that helps with a phrase in steps that fit every phrase; `named`: the phrase stands in it."""
    steps = dict(zip("abc", rng.sample(forms("steps"), 3), strict=True))
    return one("helping" if named else "helping_unnamed", rng).format(phrase=phrase, **steps)


@cache
def _data() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((files("training.smol") / "forms.yaml").read_text("utf-8"))
    return data
