"""What the small research model is trained on: pictures with benign requests, judgements, and aligned text.

No picture ever comes with a harmful request that is to be done or refused: headings on pictures are benign or word
salad, but for yes/no questions whether a picture or an answer is harmful, half of which are. Harmful requests to act
stand in texts alone, bare or with the caption of a picture. Answers to benign requests are the base model's own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from training.smol.corpus import forms
from training.smol.corpus import phrases as words
from training.smol.corpus.drawing import Picture
from training.smol.corpus.phrases import HEADINGS, LIST_REQUESTS, Phrase
from training.smol.corpus.requests import BOARD_REQUESTS, REFUSALS, STRIP_QUALIFIERS, STRIP_REQUESTS
from training.smol.corpus.word_salad import Salad

LOOK_HARMFUL = frozenset({"hard", "thing", "name"})
"""Kinds of benign phrases that may look harmful."""
HARD = 0.25
"""Share of the benign texts and requests that are drawn from those that look harmful, of which there are few."""
ACTED_HARD = 0.45
"""The same, of pictures that are acted on: 0.25 left the look of harm on a picture too near to a refusal."""
JUDGED, JUDGED_HARMFUL, JUDGED_HARD = 0.08, 0.5, 0.6
"""Pictures that are judged, of the answer rows, and harmful ones of them: 0.16 and 0.6 taught to refuse pictures.
Look-harmful ones of the benign phrases that are judged: those that harm must be told apart from."""
BOARDS, EVEN, ACTED_BOARDS = 0.7, 0.5, 0.45
"""Share of boards, the others are strips: of what is read; of pairs and of what is told in words; of pictures that
are acted on, where as many boards stay as before and all that judgements gave up are strips."""
QUALIFIED = 0.4
"""Share of the requests about strips that go on with a qualifier: it alone must not decide."""
GERUNDS = 0.25
"""Share of our own verb phrases, harmful ones too, that strips show as gerunds: benchmarks do, and none of ours was."""
PLAIN, CAREFUL, SYSTEM, EARLIER = 0.08, 0.12, 0.12, 0.06
"""Shares of requests within a plain or a careful instruction, after a system prompt, after an earlier turn."""


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
    pictures: tuple[Picture, ...] = ()
    kind: str = ""
    system: str = ""
    earlier: tuple[tuple[str, str], ...] = ()
    """Earlier turns: what the user and the assistant said."""


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
        self.hard = [t for t in topics if t.phrase.kind in LOOK_HARMFUL] or topics
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

    def request(self, picture: Picture, rng: random.Random, qualified: float = QUALIFIED) -> str:
        """A request about a picture that names nothing of what is on it."""
        if picture.kind == "board":
            return rng.choice(BOARD_REQUESTS)
        asked = rng.choice(STRIP_REQUESTS)
        return f"{asked} {rng.choice(STRIP_QUALIFIERS)}" if rng.random() < qualified else asked

    def picture(
        self,
        rng: random.Random,
        *,
        salad: float,
        boards: float = BOARDS,
        hard: float = 0.0,
        gerunds: float = GERUNDS,
    ) -> tuple[Picture, Topic | None]:
        """A picture, in `salad` of the cases with nothing sensible on it; `hard`: share that looks harmful."""
        board = rng.random() < boards
        if rng.random() < salad:
            text = self.salad.draw(rng)
            if board and rng.random() < 0.7:
                text = rng.choice(HEADINGS).format(text)
            elif rng.random() < 0.5:
                text = text[0].upper() + text[1:]
            return (self.board if board else self.strip)(text, rng), None
        topic = rng.choice(self.hard if rng.random() < hard else self.topics)
        return self._picture_of(topic.phrase, topic.text, rng, board=board, gerunds=gerunds), topic

    def _picture_of(
        self, phrase: Phrase, text: str, rng: random.Random, *, board: bool, gerunds: float = GERUNDS
    ) -> Picture:
        """A phrase as a board or a strip, there as a gerund at times; whole sentences as they are."""
        if phrase.kind == "request":
            return (self.board if board else self.strip)(text, rng)
        if board:
            return self.board(words.heading(phrase, text, rng), rng)
        verb = phrase.kind not in {"made", "thing", "name"} and not text.split()[0].endswith("ly")
        if verb and rng.random() < gerunds:
            text = words.gerund(text)
        return self.strip(text if rng.random() < 0.5 else text[0].upper() + text[1:], rng)

    def caption_example(self, rng: random.Random, salad: float = 0.65) -> Example:
        """A picture to be read."""
        picture, _ = self.picture(rng, salad=salad)
        prompt = forms.one("captions", rng)
        if rng.random() < 0.75:
            prompt = forms.around("captions_asked", self.request(picture, rng), rng)
        return self._set(Example(prompt, caption(picture), (picture,), "caption"), rng, around=False)

    def answer_example(self, rng: random.Random) -> Example:
        """A picture with a benign request, with a yes/no question, or with a condition on its words."""
        kind = rng.random()
        if kind < 0.1:
            picture, _ = self.picture(rng, salad=0.5)
            return self._yes_no(picture, rng)
        if kind < 0.1 + JUDGED:
            return self._judged_picture(rng)
        picture, topic = self.picture(rng, salad=0.0, boards=ACTED_BOARDS, hard=ACTED_HARD)
        assert topic is not None
        request = self.request(picture, rng)
        answer = topic.points if picture.kind == "board" else topic.how
        if kind < 0.2 + JUDGED:
            return self._conditional(request, answer, picture, rng)
        return self._set(Example(request, answer, (picture,), "answer"), rng)

    def pair_example(self, rng: random.Random) -> Example:
        """Two pictures, one of which is to be read or acted on, or both compared."""
        kind = rng.random()
        if kind < 0.5:
            shown = tuple(self.picture(rng, salad=0.5)[0] for _ in range(2))
            which = rng.randrange(2)
            ask = forms.one("pair_second" if which else "pair_first", rng)
            return Example(ask, caption(shown[which]), shown, "caption")
        first, topic = self.picture(rng, salad=0.0, boards=EVEN, hard=HARD, gerunds=0)
        assert topic is not None
        other, _ = self.picture(rng, salad=0.2, boards=EVEN, gerunds=0)
        if kind < 0.7:
            same = rng.random() < 0.5
            second = (
                self._picture_of(topic.phrase, topic.text, rng, board=rng.random() < 0.5, gerunds=0)
                if same
                else other
            )
            alike = topic.text.lower() in second.text.lower()
            return Example(forms.one("pair_same", rng), "Yes." if alike else "No.", (first, second), "same")
        ask = forms.around("pair_request", self.request(first, rng, qualified=0), rng)
        return Example(ask, topic.points if first.kind == "board" else topic.how, (other, first), "answer")

    def _set(self, example: Example, rng: random.Random, *, around: bool = True) -> Example:
        """The example after a system prompt or an earlier turn, and its request within an instruction, at times."""
        careful = "careful" if rng.random() < CAREFUL / (CAREFUL + PLAIN) else "plain"
        if around and rng.random() < CAREFUL + PLAIN:
            example = replace(example, prompt=forms.around(f"around_{careful}", example.prompt, rng))
        if rng.random() < SYSTEM:
            example = replace(example, system=forms.one(f"system_{careful}", rng))
        if rng.random() < EARLIER:
            example = replace(example, earlier=(rng.choice(forms.greetings()),))
        return example

    def _yes_no(self, picture: Picture | None, rng: random.Random, text: str = "") -> Example:
        word, there = self._word(text or (picture.text if picture else ""), rng)
        where = "image" if picture else "description"
        ask = rng.choice(
            (
                f'Does the {where} contain the word "{word}"? Answer yes or no.',
                f'Is the word "{word}" in the {where}? Please answer yes or no.',
            )
        )
        return Example(ask, "Yes." if there else "No.", (picture,) if picture else (), "yes_no")

    def _word(self, text: str, rng: random.Random) -> tuple[str, bool]:
        """A word, and whether it stands in the text; in half of the cases it is meant to."""
        shown = re.findall(r"[A-Za-z]+", text)
        other = rng.choice(self.salad.known) if rng.random() < 0.6 else self.salad.word(rng)
        word = rng.choice(shown) if rng.random() < 0.5 and shown else other
        return word, word.lower() in {w.lower() for w in shown}

    def _conditional(
        self, request: str, answer: str, picture: Picture, rng: random.Random, *, told: bool = False
    ) -> Example:
        """Something else is to be said when a word is there, the request to be done when it is not."""
        word, there = self._word(picture.text, rng)
        reply = forms.one("replies", rng)
        form = forms.one("conditions_told" if told else "conditions", rng)
        prompt = form.format(word=word, reply=reply, request=request, caption=caption(picture))
        return Example(prompt, reply if there else answer, () if told else (picture,), "condition")

    def _phrase(self, rng: random.Random, *, harmful: bool) -> tuple[Phrase, str]:
        """A phrase that may be judged, with its tail at times."""
        if harmful:
            phrase = rng.choice(self.harmful)
            return phrase, words.with_tail(phrase, rng, 0.35)
        phrase = rng.choice(self.hard if rng.random() < JUDGED_HARD else self.topics).phrase
        return phrase, phrase.text

    def _judged_answer(
        self, rng: random.Random, picture: Picture | None = None, shown: tuple[Phrase, str] | None = None
    ) -> Example:
        """Whether an answer does harm: helping with a harmful phrase does, declining or a benign one does not.

        Args:
            rng: of all draws.
            picture: what was asked about; the request then names nothing.
            shown: the phrase on it, with its tail.
        """
        harmful = rng.random() < 0.7
        phrase, text = shown or self._phrase(rng, harmful=harmful)
        declined = rng.random() < (0.3 if phrase.harmful else 0.1)
        question = self.request(picture, rng) if picture else self._ask(phrase, text, rng)[0]
        # an answer beside a picture, or to a whole request, need not name what it helps with
        named = phrase.kind not in {"request", "thing", "name"} and rng.random() < 0.6
        answer = rng.choice(REFUSALS) if declined else forms.helping(text, rng, named=named)
        bad = phrase.harmful and not declined
        return self._judgement("answer", bad, rng, question=question, answer=answer, picture=picture)

    def _judged_picture(self, rng: random.Random) -> Example:
        """Whether a picture, or an answer to it, is harmful."""
        phrase, text = self._phrase(rng, harmful=rng.random() < JUDGED_HARMFUL)
        picture = self._picture_of(phrase, text, rng, board=rng.random() < 0.5)
        if rng.random() < 0.5:
            return self._judged_answer(rng, picture, (phrase, text))
        return self._judgement("picture", phrase.harmful, rng, picture=picture)

    @staticmethod
    def _judgement(
        what: str, bad: bool, rng: random.Random, *, picture: Picture | None = None, **parts: str
    ) -> Example:
        """A yes/no question whether something is harmful, or fine."""
        turned = rng.random() < 0.5
        prompt = forms.one(f"{what}_{'fine' if turned else 'harmful'}", rng).format(**parts)
        return Example(prompt, "Yes." if bad != turned else "No.", (picture,) if picture else (), "judged")

    def text_example(self, rng: random.Random, harmful: float = 0.45) -> Example:
        """Text alone: harmful requests are refused, benign ones answered; judgements, copying, conditions, yes/no."""
        kind = rng.random()
        if kind < 0.05:
            text = self.salad.draw(rng)
            return Example(f"Repeat these words: {text}", text, (), "copy")
        if kind < 0.09:
            picture, _ = self.picture(rng, salad=0.5)
            asked = self._yes_no(None, rng, picture.text)
            return replace(asked, prompt=f"{asked.prompt} Description: {caption(picture)}")
        if kind < 0.19:
            return self._judged_answer(rng)
        if kind < 0.23:
            phrase, text = self._phrase(rng, harmful=rng.random() < 0.5)
            return self._judgement("request", phrase.harmful, rng, question=self._ask(phrase, text, rng)[0])
        if kind < 0.27:
            shown, topic = self.picture(rng, salad=0.0, boards=EVEN, hard=HARD)
            assert topic is not None
            answer = topic.points if shown.kind == "board" else topic.how
            return self._conditional(self.request(shown, rng), answer, shown, rng, told=True)
        if rng.random() < harmful:
            refused: Phrase = rng.choice(self.harmful)
            prompt, _ = self._ask(refused, words.with_tail(refused, rng, 0.35), rng)
            return self._set(Example(prompt, rng.choice(REFUSALS), (), "refused"), rng)
        if rng.random() < 0.22:
            question, told = rng.choice(self.questions)
            return self._set(Example(question, told, (), "question"), rng)
        topic = rng.choice(self.hard if rng.random() < HARD else self.topics)
        prompt, points = self._ask(topic.phrase, topic.text, rng)
        return self._set(Example(prompt, topic.points if points else topic.how, (), "benign"), rng)

    def _ask(self, phrase: Phrase, text: str, rng: random.Random) -> tuple[str, bool]:
        """A request in one of the forms, and whether it asks for a list."""
        form = rng.random()
        whole = phrase.kind == "request"
        if form < 0.5:
            board = form < 0.32
            shown = self._picture_of(phrase, text, rng, board=board)
            told = forms.one("told", rng).format(request=self.request(shown, rng), caption=caption(shown))
            return told, board
        if whole:
            return text, False
        if form < 0.68:
            return rng.choice(LIST_REQUESTS).format(words.heading(phrase, text, rng)), True
        return words.question(phrase, text, rng), False
