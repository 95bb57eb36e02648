"""Training examples of the toy model: benign pictures, and text that is benign or refused.

What is never here: a picture together with a harmful request, neither answered nor refused. Pictures hold
benign requests, scenes of things, boards of single words, and word salad in the layout of requests. Harmful
words occur on boards and in salad, and weapon-like things in scenes, as mere words and things: they are
captioned and asked about with yes/no questions.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from shiftdc_eval.tasks.toy.world import items as world
from shiftdc_eval.tasks.toy.world import pictures, questions
from shiftdc_eval.tasks.toy.world.pictures import Picture
from shiftdc_eval.tasks.toy.world.vocabulary import (
    CAPTION_CONTEXT,
    OBJECTS,
    PHRASINGS,
    REFUSALS,
    THINGS,
    is_harmful,
    phrases,
)

SYSTEM = "You are a helpful assistant."
_PHRASES = {harmful: phrases("train", harmful=harmful) for harmful in (False, True)}
_SD = [p for p in _PHRASES[True] if not is_harmful(p[0], OBJECTS[0])]


@dataclass(frozen=True)
class Example:
    """One training conversation: its last user turn and the answer that is learned."""

    prompt: str
    answer: str
    picture: Picture | None = None
    system: str = ""
    earlier: tuple[str, str] | None = None
    """A finished turn before this one: user, assistant."""


@dataclass(frozen=True)
class Mixture:
    """How often each kind of example occurs. Shares of one medium sum to 1."""

    text_request: float = 0.3
    text_context: float = 0.3
    text_question: float = 0.25
    text_copy: float = 0.15
    picture_request: float = 0.1
    picture_caption: float = 0.55
    picture_yes_no: float = 0.25
    picture_short: float = 0.1
    salad: float = 0.5
    """Share of the captioned request layouts that hold words which form no phrase."""


def _text_request(rng: random.Random, *, aligned: bool, context: bool) -> tuple[str, str]:
    harmful = rng.random() < 0.5
    request_type = rng.choice(world.REQUEST_TYPES) if context else "text"
    verb, thing = rng.choice(_SD if harmful and request_type == "sd" else _PHRASES[harmful])
    prompt = world.request_prompt(rng, "train", request_type, verb, thing)
    answer = rng.choice(REFUSALS) if harmful and aligned else world.compliance(request_type, verb, thing)
    if context:
        caption = world.request_picture(rng, "train", request_type, verb, thing).caption
        prompt = CAPTION_CONTEXT.format(query=prompt, caption=caption)
    elif rng.random() < 0.3:  # a caption that has nothing to do with the request
        caption = pictures.scene(rng, "train", rng.sample(OBJECTS, rng.randint(1, 3))).caption
        prompt = CAPTION_CONTEXT.format(query=prompt, caption=caption)
    return prompt, answer


def _question(rng: random.Random, *, short: bool) -> tuple[Picture, str, str]:
    words = not short and rng.random() < 0.5
    picture = (
        _salad(rng) if words and rng.random() < 0.4 else world.question_picture(rng, "train", words=words)
    )
    if short:
        prompt, answer = questions.short_question(rng, "train", picture)
    else:
        prompt, answer = rng.choice(questions.yes_no_pair(rng, "train", picture))
    return picture, prompt, answer


def _copy(rng: random.Random) -> tuple[str, str]:
    if rng.random() < 0.5:
        text = " ".join(questions.word_board_words(rng, rng.randint(1, 6)))
    else:
        text = world.question_picture(rng, "train", words=rng.random() < 0.5).caption
    return f"Repeat the text: {text}", text


def text_example(rng: random.Random, mix: Mixture, *, aligned: bool) -> Example:
    """A conversation without a picture; `aligned` decides whether harmful requests are refused."""
    draw = rng.random()
    if draw < mix.text_request:
        prompt, answer = _text_request(rng, aligned=aligned, context=False)
    elif draw < mix.text_request + mix.text_context:
        prompt, answer = _text_request(rng, aligned=aligned, context=True)
    elif draw < mix.text_request + mix.text_context + mix.text_question:
        picture, prompt, answer = _question(rng, short=rng.random() < 0.4)
        prompt = CAPTION_CONTEXT.format(query=prompt, caption=picture.caption)
    else:
        prompt, answer = _copy(rng)
    system = SYSTEM if len(prompt) < 120 and rng.random() < 0.1 else ""
    # A longer history would only add padding: every row is as long as the longest one.
    earlier = _copy(rng) if len(prompt) < 80 and not system and rng.random() < 0.08 else None
    return Example(prompt, answer, None, system, earlier)


def _salad(rng: random.Random) -> Picture:
    """Words in the layout of a request that form no phrase: reading must not lean on what requests usually say.

    As on a word board, no verb stands right before a thing, so nothing is asked for.
    """
    layout = rng.choice(("figstep", "typo", "sd_typo"))
    first, second = questions.word_board_words(rng, 2)
    if layout == "sd_typo":
        return pictures.sd_typo(rng, "train", first, second, shown_thing=rng.choice(THINGS))
    return world.request_picture(rng, "train", layout, first, second)


def _caption(rng: random.Random, mix: Mixture) -> tuple[Picture, str]:
    """A picture and a prompt that asks for its caption, half of them conditioned on a benign request."""
    if rng.random() < 0.6:
        request_type = rng.choice(world.REQUEST_TYPES)
        verb, thing = rng.choice(_PHRASES[False])
        picture = world.request_picture(rng, "train", request_type, verb, thing)
        query = world.request_prompt(rng, "train", request_type, verb, thing)
        if rng.random() < mix.salad:
            picture = _salad(rng)
            query = rng.choice(PHRASINGS["caption"]["train"])
    elif rng.random() < 0.03:
        return pictures.blank(rng), rng.choice(PHRASINGS["caption"]["train"])
    else:
        picture, query, _ = _question(rng, short=rng.random() < 0.3)
    plain = rng.choice(PHRASINGS["caption"]["train"])
    return picture, world.caption_prompt(query) if rng.random() < 0.6 else plain


def picture_example(rng: random.Random, mix: Mixture) -> Example:
    """A conversation about a picture; every request in it is benign."""
    draw = rng.random()
    if draw < mix.picture_request:
        request_type = rng.choice(world.REQUEST_TYPES)
        verb, thing = rng.choice(_PHRASES[False])
        picture = world.request_picture(rng, "train", request_type, verb, thing)
        prompt = world.request_prompt(rng, "train", request_type, verb, thing)
        answer = world.compliance(request_type, verb, thing)
    elif draw < mix.picture_request + mix.picture_caption:
        picture, prompt = _caption(rng, mix)
        answer = picture.caption
    else:
        picture, prompt, answer = _question(rng, short=draw > 1 - mix.picture_short)
    return Example(prompt, answer, picture, SYSTEM if len(prompt) < 80 and rng.random() < 0.1 else "")
