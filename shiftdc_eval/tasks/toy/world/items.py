"""Items of the toy world, drawn by kind, split and seed, for the mini benchmarks.

Independent of torch. Equal calls give equal items on any machine, and a shorter draw is the beginning of a longer
one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.tasks.toy.world import drawing, pictures, questions
from shiftdc_eval.tasks.toy.world.pictures import Picture
from shiftdc_eval.tasks.toy.world.vocabulary import (
    ANSWER,
    CAPTION_PROMPT,
    LIST_ANSWER,
    OBJECTS,
    PHRASINGS,
    REFUSALS,
    THINGS,
    WEAPONS,
    Split,
    is_harmful,
    phrases,
)

RequestType = Literal["figstep", "typo", "sd", "sd_typo"]
REQUEST_TYPES: tuple[RequestType, ...] = ("figstep", "typo", "sd", "sd_typo")

KINDS = (
    *("text_harmful", "text_benign", *REQUEST_TYPES),
    *(f"benign_{t}" for t in REQUEST_TYPES),
    *("yes_no", "vqa", "caption"),
)
"""What `items` can draw. `figstep` to `sd_typo` are harmful image requests; `benign_*` are their twins."""


@dataclass(frozen=True)
class Item:
    """One question to a model, with everything a task needs to score the answer."""

    id: str
    kind: str
    split: Split
    prompt: str
    picture: Picture | None
    harmful: bool
    reference: str
    """The right answer; for a harmful request a refusal of the fixed family."""
    caption: str
    """A correct caption of the picture; empty without a picture."""
    image_type: str
    group: str
    """Name shared by items that belong together: the two questions about one picture, the items of one thing."""
    verb: str = ""
    thing: str = ""

    @property
    def image(self) -> Image.Image | None:
        """The picture drawn as a 128 x 128 RGB image."""
        return None if self.picture is None else drawing.render(self.picture)


def compliance(request_type: str, verb: str, thing: str) -> str:
    """The short harmless template with which the world's requests are answered."""
    return (LIST_ANSWER if request_type == "figstep" else ANSWER).format(verb=verb, object=thing)


def request_picture(rng: random.Random, split: Split, request_type: str, verb: str, thing: str) -> Picture:
    """The picture that carries a request of one type."""
    if request_type == "figstep":
        return pictures.numbered_list(rng, split, verb, thing)
    if request_type == "typo":
        return pictures.typo(rng, split, verb, thing)
    if request_type == "sd":
        return pictures.sd(rng, split, thing)
    return pictures.sd_typo(rng, split, verb, thing)


def request_prompt(rng: random.Random, split: Split, request_type: str, verb: str, thing: str) -> str:
    """The text prompt beside such a picture, or the whole request for the type `text`."""
    return rng.choice(PHRASINGS[request_type][split]).format(verb=verb, object=thing)


def caption_prompt(query: str) -> str:
    """The request-conditioned caption prompt."""
    return CAPTION_PROMPT.format(query=query)


def question_picture(rng: random.Random, split: Split, *, words: bool) -> Picture:
    """A scene or a word board, as yes/no questions, short questions and captions use it."""
    if words:
        return pictures.word_board(rng, split, questions.word_board_words(rng, rng.randint(1, 4)))
    return pictures.scene(rng, split, rng.sample(THINGS, rng.randint(1, 3)))


def _request(rng: random.Random, split: Split, kind: str, name: str) -> Item:
    request_type = kind.removeprefix("benign_")
    harmful = kind == "text_harmful" or kind in REQUEST_TYPES
    request_type = "text" if kind.startswith("text_") else request_type
    candidates = phrases(split, harmful=harmful)
    if request_type == "sd":  # the prompt has the verb, so only the thing in the picture can be harmful
        shown = WEAPONS if harmful else OBJECTS
        candidates = tuple(p for p in candidates if p[1] in shown and not is_harmful(p[0], OBJECTS[0]))
    verb, thing = rng.choice(candidates)
    picture = None if request_type == "text" else request_picture(rng, split, request_type, verb, thing)
    prompt = request_prompt(rng, split, request_type, verb, thing)
    reference = rng.choice(REFUSALS) if harmful else compliance(request_type, verb, thing)
    caption = picture.caption if picture else ""
    return Item(
        name, kind, split, prompt, picture, harmful, reference, caption, request_type, thing, verb, thing
    )


def _questions(rng: random.Random, split: Split, kind: str, name: str) -> list[Item]:
    words = kind != "vqa" and rng.random() < 0.5
    picture = question_picture(rng, split, words=words)
    if kind == "yes_no":
        asked: list[tuple[str, str]] = list(questions.yes_no_pair(rng, split, picture))
    elif kind == "vqa":
        asked = [questions.short_question(rng, split, picture)]
    else:
        asked = [(rng.choice(PHRASINGS["caption"][split]), picture.caption)]
    names = [f"{name}-{answer.lower()}" if kind == "yes_no" else name for _, answer in asked]
    return [
        Item(item_name, kind, split, prompt, picture, False, answer, picture.caption, picture.type, name)
        for item_name, (prompt, answer) in zip(names, asked, strict=True)
    ]


def items(kind: str, split: Split, n: int, seed: int) -> list[Item]:
    """The first `n` items of one kind and split under one seed.

    Yes/no items come in pairs about one picture (same `group`), so `n` should be even there.

    Raises:
        ConfigError: unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"unknown kind of toy item {kind!r}: choose one of {', '.join(KINDS)}")
    rng = random.Random(f"{kind}/{split}/{seed}")
    found: list[Item] = []
    while len(found) < n:
        name = f"{kind}-{split}-{seed}-{len(found):05d}"
        is_question = kind in ("yes_no", "vqa", "caption")
        found += _questions(rng, split, kind, name) if is_question else [_request(rng, split, kind, name)]
    return found[:n]
