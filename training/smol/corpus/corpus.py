"""What the small research model is trained on: pictures with benign requests, and aligned text.

No picture ever comes with a harmful request, answered or refused: headings on pictures are benign or word salad.
Harmful requests stand in texts alone, bare or with the caption of a picture. Answers to benign requests are the base
model's own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from training.smol.corpus import phrases as words
from training.smol.corpus.drawing import Picture
from training.smol.corpus.phrases import HEADINGS, LIST_REQUESTS, Phrase
from training.smol.corpus.requests import (
    BOARD_REQUESTS,
    CAPTION_REQUEST,
    PLAIN_CAPTIONS,
    REFUSALS,
    STRIP_REQUESTS,
)
from training.smol.corpus.word_salad import Salad

HARD = 0.25
"""Share of the benign texts that are drawn from those that look harmful, of which there are few."""


@dataclass(frozen=True)
class Topic:
    """A benign phrase with the base model's own answers."""

    phrase: Phrase
    points: str
    """Three numbered points under a heading."""
    how: str
    """Answer to a question about it."""

    @property
    def text(self) -> str:
        return self.phrase.text


@dataclass(frozen=True)
class Example:
    """One training example."""

    prompt: str
    answer: str
    picture: Picture | None = None
    kind: str = ""


def caption(picture: Picture) -> str:
    """What is said about a picture."""
    if picture.kind == "strip":
        return f'The image shows the words "{picture.text}".'
    if not picture.markers:
        return f'The image shows the text "{picture.text}".'
    return f'The image shows the text "{picture.text}" above a list with the empty numbers 1, 2 and 3.'


class Corpus:
    """Draws examples.

    Args:
        topics: benign phrases with answers.
        questions: benign whole questions and their answers.
        vocabulary: words of one token for word salad.
        rare: words of several tokens for word salad.
        fonts: name -> font file.
        requests: more harmful requests, as whole sentences.
        keep: False for texts that must not be trained on (too near to an item of an evaluation set).
    """

    def __init__(
        self,
        topics: Sequence[Topic],
        questions: Sequence[tuple[str, str]],
        vocabulary: Sequence[str],
        fonts: dict[str, str],
        requests: Sequence[str] = (),
        rare: Sequence[str] = (),
        keep: Callable[[str], bool] = lambda text: True,
    ) -> None:
        self.topics = topics
        self.hard = [t for t in topics if t.phrase.kind in {"hard", "thing"}] or topics
        self.questions = questions
        self.fonts = fonts
        phrases = (*words.phrases(), *words.things())
        self.harmful = [p for p in phrases if p.harmful and not words.held_out(p.text) and keep(p.text)]
        self.harmful += [Phrase(t, True, "request") for t in requests if keep(t)]
        known = sorted({w for t in topics for w in re.findall(r"[A-Za-z]+", t.text)})
        self.salad = Salad(vocabulary, rare, known)

    def board(self, text: str, rng: random.Random) -> Picture:
        """A board in the usual style, in three of ten cases in another one."""
        mono = next((f for n, f in self.fonts.items() if n == "FreeMonoBold"), None)
        if mono is not None and rng.random() < 0.7:
            return Picture(text, mono)
        return Picture(
            text,
            rng.choice(list(self.fonts.values())),
            font_size=rng.randrange(52, 86),
            wrap=rng.randrange(12, 19),
            origin=(rng.randrange(4, 40), rng.randrange(0, 40)),
            spacing=rng.randrange(4, 20),
            markers=rng.random() < 0.8,
        )

    def strip(self, text: str, rng: random.Random) -> Picture:
        plain = rng.random() < 0.4
        size = 90 if plain else rng.randrange(60, 100)
        origin = (0, 45) if plain else (rng.randrange(0, 30), rng.randrange(10, 50))
        sans = [f for n, f in self.fonts.items() if n in {"FreeSans", "LiberationSans-Regular", "DejaVuSans"}]
        font = (
            rng.choice(sans or list(self.fonts.values())) if plain else rng.choice(list(self.fonts.values()))
        )
        return Picture(text, font, kind="strip", font_size=size, origin=origin, spacing=4)

    def request(self, picture: Picture, rng: random.Random) -> str:
        return rng.choice(STRIP_REQUESTS if picture.kind == "strip" else BOARD_REQUESTS)

    def picture(self, rng: random.Random, *, salad: float) -> tuple[Picture, Topic | None]:
        """A picture, in `salad` of the cases with nothing sensible on it."""
        board = rng.random() < 0.7
        if rng.random() < salad:
            text = self.salad.draw(rng)
            if board and rng.random() < 0.7:
                text = rng.choice(HEADINGS).format(text)
            elif rng.random() < 0.5:
                text = text[0].upper() + text[1:]
            return (self.board if board else self.strip)(text, rng), None
        topic = rng.choice(self.topics)
        if board:
            return self.board(words.heading(topic.phrase, topic.text, rng), rng), topic
        text = topic.text if rng.random() < 0.5 else topic.text[0].upper() + topic.text[1:]
        return self.strip(text, rng), topic

    def caption_example(self, rng: random.Random, salad: float = 0.65) -> Example:
        """A picture to be read."""
        picture, _ = self.picture(rng, salad=salad)
        if rng.random() < 0.75:
            prompt = CAPTION_REQUEST.format(self.request(picture, rng))
        else:
            prompt = rng.choice(PLAIN_CAPTIONS)
        return Example(prompt, caption(picture), picture, "caption")

    def answer_example(self, rng: random.Random) -> Example:
        """A picture with a benign request, or with a yes/no question."""
        if rng.random() < 0.15:
            picture, _ = self.picture(rng, salad=0.5)
            return self._yes_no(picture, rng)
        while True:
            picture, topic = self.picture(rng, salad=0.0)
            if topic is not None:
                answer = topic.points if picture.kind == "board" else topic.how
                return Example(self.request(picture, rng), answer, picture, "answer")

    def _yes_no(self, picture: Picture | None, rng: random.Random, text: str = "") -> Example:
        shown = re.findall(r"[A-Za-z]+", text or (picture.text if picture else ""))
        yes = rng.random() < 0.5
        other = rng.choice(self.salad.known) if rng.random() < 0.6 else self.salad.word(rng)
        word = rng.choice(shown) if yes and shown else other
        truth = "Yes" if word.lower() in {w.lower() for w in shown} else "No"
        where = "image" if picture else "caption"
        ask = rng.choice(
            (
                f'Does the {where} contain the word "{word}"? Answer yes or no.',
                f'Is the word "{word}" in the {where}? Please answer yes or no.',
            )
        )
        return Example(ask, f"{truth}.", picture, "yes_no")

    def text_example(self, rng: random.Random, harmful: float = 0.45) -> Example:
        """Text alone: harmful requests are refused, benign ones answered; some copying and yes/no."""
        kind = rng.random()
        if kind < 0.06:
            text = self.salad.draw(rng)
            return Example(f"Repeat these words: {text}", text, None, "copy")
        if kind < 0.12:
            picture, _ = self.picture(rng, salad=0.5)
            asked = self._yes_no(None, rng, picture.text)
            return replace(asked, prompt=f"{asked.prompt} Image Caption: {caption(picture)}")
        if rng.random() < harmful:
            phrase: Phrase = rng.choice(self.harmful)
            refusal = rng.choice(REFUSALS)
            return Example(
                self._ask(phrase, words.with_tail(phrase, rng, 0.35), rng)[0], refusal, None, "refused"
            )
        if rng.random() < 0.22:
            question, answer = rng.choice(self.questions)
            return Example(question, answer, None, "question")
        topic = rng.choice(self.hard if rng.random() < HARD else self.topics)
        prompt, points = self._ask(topic.phrase, topic.text, rng)
        return Example(prompt, topic.points if points else topic.how, None, "benign")

    def _ask(self, phrase: Phrase, text: str, rng: random.Random) -> tuple[str, bool]:
        """A request in one of the forms, and whether it asks for a list."""
        form = rng.random()
        whole = phrase.kind == "request"
        if form < 0.32:
            board = self.board(text if whole else words.heading(phrase, text, rng), rng)
            return f"{self.request(board, rng)} Image Caption: {caption(board)}", True
        if form < 0.5:
            shown = text if rng.random() < 0.5 else text[0].upper() + text[1:]
            strip = self.strip(shown, rng)
            return f"{self.request(strip, rng)} Image Caption: {caption(strip)}", False
        if whole:
            return text, False
        if form < 0.68:
            return rng.choice(LIST_REQUESTS).format(words.heading(phrase, text, rng)), True
        return words.question(phrase, text, rng), False
