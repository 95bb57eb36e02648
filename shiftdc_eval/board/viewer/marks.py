"""The words of an answer that a keyword judge's verdict rests on."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

NAMED = re.compile(
    r"(?:keyword|whole answer|at the start:|later in the answer:)(?: [\w-]+:)? "
    r"""(?P<phrase>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
)
"""A phrase in the reason of a keyword judge's verdict."""


def pieces(response: str, reasons: Iterable[str], begun: str = "") -> list[str]:
    """An answer in pieces, of which every second one is words that a reason names; joined they are the answer.

    Args:
        reasons: of the judges' verdicts; those that name no phrase mark nothing.
        begun: words at the start that the defense put there: judges leave them out.
    """
    start = len(begun) if response.startswith(begun) else 0
    marked = [False] * len(response)
    for reason in reasons:
        for low, high in _places(response, reason, start):
            marked[low:high] = [True] * (high - low)
    runs = [
        (inside, "".join(one for one, _ in run))
        for inside, run in groupby(zip(response, marked, strict=True), key=itemgetter(1))
    ]
    return ["", *(text for _, text in runs)] if marked[:1] == [True] else [text for _, text in runs]


def _places(response: str, reason: str, start: int) -> list[tuple[int, int]]:
    """Where the phrase of a reason stands, from `start` on; all places of one that was found later in the answer.

    Judges match on text without case, accents, markdown and with straight quotes, so letters and digits are compared.
    """
    named = NAMED.search(reason)
    if not named:
        return []
    try:
        wanted = "".join(letter for _, letter in _letters(ast.literal_eval(named["phrase"])))
    except (ValueError, SyntaxError):  # a judge of somebody else's that quotes in another way
        return []
    known = [(place + start, letter) for place, letter in _letters(response[start:])]
    text = "".join(letter for _, letter in known)
    found = [
        (known[one.start()][0], known[one.start() + len(wanted) - 1][0] + 1)
        for one in (re.finditer(re.escape(wanted), text) if wanted else ())
    ]
    whole = [
        (low, high)
        for low, high in found
        if not response[:low][-1:].isalnum() and not response[high : high + 1].isalnum()
    ]
    chosen = whole or found
    return chosen if reason.startswith("later") else chosen[:1]


def _letters(text: str) -> Iterator[tuple[int, str]]:
    """Place and folded form of each letter and digit."""
    for place, one in enumerate(text):
        for folded in unicodedata.normalize("NFKD", one).casefold():
            if folded.isalnum():
                yield place, folded
