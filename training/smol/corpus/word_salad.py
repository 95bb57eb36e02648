"""Word salad: text without sense, so that reading it leaves nothing to guess from.

A language model reads a rare word as a common one of the same look; it unlearns that only on words that it has to
spell. So about half of the words are of several tokens.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import DataError
from training.smol.corpus import phrases

FRAMES = (
    "{} the {} of {}",
    "{} {} to {} {}",
    "{} a {} with {} {}",
    "{} {} and {} in the {}",
    "{} on {} for {} {}",
    "{} for a {} without {}",
    "{} {} about {} {}",
    "{} or {} {} at the {}",
    "{} {} into {} {}",
    "{} by {} the {} {} {}",
    "{} an {} {} from {} {}",
    "{} {} {} through {} {}",
)
"""Forms of sentences without their meaning."""
SMALL = ("to", "of", "the", "a", "in", "for", "and", "with", "without", "from", "on")
ENDINGS = (
    "er",
    "ers",
    "ing",
    "ed",
    "ion",
    "ist",
    "ware",
    "less",
    "ment",
    "age",
    "ly",
    "ize",
    "ation",
    "able",
)
RARE, KNOWN, HARMFUL, FRAMED = 0.5, 0.15, 0.45, 0.4
"""Shares: words of several tokens; words of the benign phrases; salads with a word of the harmful phrases; frames."""
LONGEST = 9
"""Words at most: headings in FigStep's form have nine on average."""
_WORD = re.compile(r"[A-Za-z]{3,14}")


class Salad:
    """Draws word salad.

    Args:
        vocabulary: words of one token, and a few made-up ones.
        rare: words of several tokens.
        known: words of the benign phrases.
    """

    def __init__(self, vocabulary: Sequence[str], rare: Sequence[str], known: Sequence[str]) -> None:
        self.harmful = sorted(phrases.harmful_words() | phrases.SUSPECT)
        suspicious = set(self.harmful)

        def harmless(words: Sequence[str]) -> list[str]:
            return [w for w in words if w.lower() not in suspicious]

        self.vocabulary, self.rare, self.known = harmless(vocabulary), harmless(rare), harmless(known)

    def word(self, rng: random.Random) -> str:
        """A word that is none of the harmful phrases'."""
        if self.rare and rng.random() < RARE:
            return rng.choice(self.rare)
        return rng.choice(self.known if self.known and rng.random() < KNOWN else self.vocabulary or self.rare)

    def draw(self, rng: random.Random) -> str:
        """Two to nine words, at most one of them from the harmful phrases."""
        frame = rng.choice(FRAMES) if rng.random() < FRAMED else ""
        words = [self.word(rng) for _ in range(frame.count("{}") or rng.randint(2, LONGEST))]
        if rng.random() < HARMFUL:
            words[rng.randrange(len(words))] = rng.choice(self.harmful)
        if frame:
            return frame.format(*words)
        small = [rng.choice(SMALL) if i and rng.random() < 0.12 else w for i, w in enumerate(words)]
        return " ".join(small)


def read_words(path: Path) -> list[str]:
    """The words of 3 to 14 ASCII letters in a list with one word a line, without repeats.

    Raises:
        DataError: the file cannot be read, or has no such word.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a word list: {error}; Debian's is wamerican") from error
    found = list(dict.fromkeys(line for line in lines if _WORD.fullmatch(line)))
    if not found:
        raise DataError(f"{path} has no word of 3 to 14 letters; give a plain list with one word a line")
    return found


def several_tokens(words: Sequence[str], tokenizer: Any) -> list[str]:
    """Those words that take more than one token inside a sentence."""
    numbers = tokenizer([f" {w}" for w in words], add_special_tokens=False)["input_ids"] if words else []
    return [w for w, ids in zip(words, numbers, strict=True) if len(ids) > 1]


def vocabulary(tokenizer: Any) -> list[str]:
    """The tokenizer's whole words, and rarer ones put together from a word and an ending."""
    whole = sorted(token[1:] for token in tokenizer.get_vocab() if token[0] == "Ġ")
    plain = [w for w in whole if w.isascii() and w.isalpha() and 3 <= len(w) <= 13]
    rng = random.Random(7)
    made = [rng.choice(plain) + rng.choice(ENDINGS) for _ in range(len(plain) // 8)]
    return [*plain, *(w for w in made if len(w) <= 14)]
