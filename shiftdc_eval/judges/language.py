"""Which language an answer is in, so that a judge leaves alone what it cannot read.

py3langid tells (a model of 1.5 MB inside the package, no network). It was chosen by measurement, see docs/judges.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.judges.rules import spoken

ANY = "any"
"""In place of languages: judge whatever the language."""
LEAST = 0.02
"""An answer whose languages have less than this probability among all is in none of them."""
LEAST_OF_FEW = 0.004
"""The same for two words, such as a name."""
SURE = 0.6
"""Probability that another language needs where there are too few words to tell by."""
ONE_SCRIPT = 0.6
"""Share of the letters that are of one script in a text that can be told."""
FEW_WORDS = 3
BEGINNING = 600
"""Characters that are looked at: more says nothing new and takes time."""
VARIETIES = {"pcm": "en", "wuu": "zh", "yue": "zh", "arz": "ar", "ary": "ar"}
"""Codes of the detector that the rules of another language are for."""

_WORD = re.compile(r"[^\W\d_]+")
_NOT_LANGUAGE = re.compile(
    r"https?://\S+|(?<!\S)\S+@\S+|(?:(?<![\w./\\])[\w./\\]+)?[/\\_=(){}\[\]<>]+[\w./\\]*|\d+"
)
"""Tried at the beginning of a word alone: a text without spaces is one long word."""
_SENTENCE = re.compile(r"(?<=[.!?\u3002\uff01\uff1f\u061f\u0964])\s*|\n+")
_SCRIPTS = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "KATAKANA-HIRAGANA": "CJK", "IDEOGRAPHIC": "CJK"}


_run: list[str] = []


def expect(languages: str) -> None:
    """Say which languages the answers of this process's run are in: codes joined by `+`; empty: nothing is said.

    Raises:
        ConfigError: one is no language.
    """
    _run[:] = codes(languages, "model argument languages")


def expected() -> list[str]:
    """The languages that `expect` was told; none: nothing is known."""
    return list(_run)


def codes(languages: str | Sequence[str], where: str) -> list[str]:
    """ISO 639 codes from text (joined by `+`) or from a list.

    Raises:
        ConfigError: one is no language; names it and where it stands.
    """
    parts = languages.split("+") if isinstance(languages, str) else list(languages)
    found = [str(part).strip().lower() for part in parts if str(part).strip()]
    for code in found:
        if code not in names():
            raise ConfigError(
                f"{where}: {code!r} is no language; write ISO 639 codes joined by +, e.g. de+fr"
            )
    return found


@cache
def names() -> dict[str, str]:
    """ISO 639 code -> English name, for every language that the detector knows."""
    found: dict[str, str] = yaml.safe_load(
        Path(__file__).with_name("language_names.yaml").read_text(encoding="utf-8")
    )
    return found


def parse_languages(text: str, known: Sequence[str], judge: str) -> tuple[str, ...]:
    """The languages that a setting names: codes joined by `+`, or `any`.

    Args:
        known: codes that the judge speaks.

    Raises:
        ConfigError: one is no language, or the judge does not speak it.
    """
    if text == ANY:
        return (ANY,)
    found = tuple(codes(text, f"judge {judge}, setting languages"))
    for code in found:
        if code not in known:
            raise ConfigError(
                f"judge {judge} does not speak {names()[code]} (setting languages={text!r}); it speaks: "
                f"{', '.join(known)}; keyword_multilingual speaks most, an LLM judge any"
            )
    if not found:
        raise ConfigError(
            f"judge {judge}: languages={text!r} names none; write codes such as de+fr, or {ANY}"
        )
    return found


def foreign(response: str, languages: Sequence[str]) -> str | None:
    """Name of the language of an answer that is in none of `languages`; None where it is, or where one cannot tell.

    An answer that begins with a sentence in one of the languages counts as theirs.
    """
    text = _readable(response)
    code = _other(text, languages)
    if code is None:
        return None
    if _best(_first_sentence(text)) in languages:
        return None
    return names().get(code, code)


def likely(response: str, languages: Sequence[str]) -> list[str]:
    """Those of `languages` that an answer may be in, the likeliest first: of a short one, all of them."""
    text = _readable(response)
    found = _probabilities(text)
    ordered = sorted(languages, key=lambda one: -found.get(one, 0.0))
    if len(_WORD.findall(text)) < FEW_WORDS:
        return ordered
    begun = _best(_first_sentence(text))
    chosen = [one for one in ordered if found.get(one, 0.0) >= LEAST] or ordered[:1]
    return list(dict.fromkeys([*chosen, *([begun] if begun in languages else [])]))


def _other(text: str, languages: Sequence[str]) -> str | None:
    """Code of the language if it is surely none of these."""
    script = _script(text)
    latin = script == "LATIN"
    words = [word for word in _WORD.findall(text) if len(word) > 1 or not latin]
    if not script or sum(map(len, words)) < (4 if latin else 2):
        return None
    found = _probabilities(text)
    best = max(found, key=lambda one: found[one])
    theirs = sum(found.get(one, 0.0) for one in languages)
    if best in languages or best == "zxx" or theirs >= LEAST:
        return None
    few = latin and len(words) < FEW_WORDS
    return None if few and found[best] < SURE and (len(words) < 2 or theirs >= LEAST_OF_FEW) else best


def _script(text: str) -> str:
    """First word of the Unicode names of most letters, e.g. `LATIN`; empty where it is no text in one script."""
    letters = [char for char in text if char.isalpha()]
    visible = sum(not char.isspace() and unicodedata.category(char)[0] != "M" for char in text)
    if not letters or 2 * len(letters) < visible:
        return ""
    [(script, count)] = Counter(_SCRIPTS.get(name, name) for name in map(_name, letters)).most_common(1)
    return script if count >= ONE_SCRIPT * len(letters) else ""


def _name(char: str) -> str:
    return unicodedata.name(char, "?").split()[0]


def _first_sentence(text: str) -> str:
    """The first with words enough to tell by; without one, the whole text."""
    return next((part for part in _SENTENCE.split(text) if len(_WORD.findall(part)) > FEW_WORDS), text)


def _best(text: str) -> str:
    found = _probabilities(text)
    return max(found, key=lambda one: found[one])


def _readable(response: str) -> str:
    """Words alone: no code, addresses, numbers, quotations."""
    return _NOT_LANGUAGE.sub(" ", spoken(response))[:BEGINNING].strip()


def _probabilities(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for code, probability in _identifier().rank(text):
        code = VARIETIES.get(code, code)
        found[code] = found.get(code, 0.0) + probability
    return found


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
