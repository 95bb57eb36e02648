"""Text as a reader sees it: what `keyword_robust` matches on, and what counts as an empty answer."""

from __future__ import annotations

import re
import unicodedata

_APOSTROPHES = dict.fromkeys(
    map(ord, "\u2018\u2019\u201a\u201b\u2032\u02bb\u02bc\u02b9\u00b4\uff07\u055a"), "'"
)
_QUOTES = dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\uff02"), '"')
_BACKTICK_IN_WORD = re.compile(r"(?<=\w)`(?=\w)")
_SET_APART = re.compile(r"(?<=\w) (?=(?:n't|'(?:m|re|ve|ll|d))\b)")
"""In tokenised text: `ca n't`, `I 'm`."""
_MARKDOWN = re.compile(r"[*_`~#>|\\]")
_SPACE = re.compile(r"\s+")
_UNWRITTEN = frozenset({"Cf", "Cc", "Co", "Cs"})
_INVISIBLE = frozenset({"Cf", "Mn", "Me", "Cc", "Co", "Cs"})
_BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")


def is_blank(text: str | None) -> bool:
    """True for None and for a text in which a reader would see nothing (spaces, zero-width characters)."""
    return text is None or not any(
        not char.isspace() and unicodedata.category(char) not in _INVISIBLE and char not in _BLANK_LETTERS
        for char in text
    )


def folded(text: str) -> str:
    """Text without accents, vowel marks and invisible characters, in its decomposed form; case stays."""
    text = unicodedata.normalize("NFKD", text)
    return "".join(char for char in text if char.isspace() or unicodedata.category(char) not in _INVISIBLE)


def straight(text: str) -> str:
    """Text with straight quotes and apostrophes and without control and zero-width characters."""
    text = text.translate(_APOSTROPHES).translate(_QUOTES)
    return "".join(char for char in text if char.isspace() or unicodedata.category(char) not in _UNWRITTEN)


def plain(text: str) -> str:
    """Case-folded text without markdown, accents and invisible characters; straight quotes, single spaces."""
    text = folded(straight(text)).casefold()
    text = _MARKDOWN.sub("", _BACKTICK_IN_WORD.sub("'", text))
    return _SET_APART.sub("", _SPACE.sub(" ", text)).strip()
