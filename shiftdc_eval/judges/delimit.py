"""Setting judged text apart from the judge's instructions.

Every call draws its own marker code, so a response cannot know the marker that would end it; characters
that no reader sees (zero-width, bidirectional, control) are written out, so they can hide nothing. So is
the first character of what a chat template or tokenizer takes for the end of a turn (`<|im_end|>`).
"""

from __future__ import annotations

import functools
import re
import secrets
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

_KEEP = frozenset("\n\t")
_HIDDEN = frozenset({"Cf", "Cc", "Co", "Cs", "Zl", "Zp"})
_BLANK = frozenset(
    map(
        chr,
        [0x034F, 0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)],
    )
)
"""Invisible marks and letters: fillers, blanks and variation selectors."""

_CONTROL = re.compile(
    r"<(?=[|\uff5c]|/?s>|</?sys>>|/?(?:bos|eos|pad|unk|mask|cls|sep|image|video|audio)>|(?:start|end)_of_\w+>)"
    r"|\[(?=/?(?:inst|system_prompt|available_tools|tool_calls|tool_results|tool_content|img|cls|sep|mask)\])",
    re.IGNORECASE,
)
"""Where a control token of a common chat format begins."""


@functools.cache
def _words() -> dict[str, str]:
    data: dict[str, str] = yaml.safe_load(
        (Path(__file__).parent / "rubrics" / "guard.yaml").read_text(encoding="utf-8")
    )
    return data


def without_control_tokens(text: str) -> str:
    """The text with the first character of what looks like a control token written as `\\u003c` or `\\u005b`."""
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def visible(text: str) -> str:
    """The text with hidden characters (zero-width, bidirectional, control) and control tokens as codes."""
    shown = "".join(
        char
        if char in _KEEP or (unicodedata.category(char) not in _HIDDEN and char not in _BLANK)
        else f"\\u{ord(char):04x}"
        if ord(char) < 0x10000
        else f"\\U{ord(char):08x}"
        for char in text.replace("\r\n", "\n")
    )
    return without_control_tokens(shown)


def new_nonce(texts: Iterable[str]) -> str:
    """A random marker code of 16 hex digits that occurs in none of the texts."""
    texts = list(texts)
    while True:
        nonce = secrets.token_hex(8)
        if not any(nonce in text for text in texts):
            return nonce


def enclose(what: str, text: str, nonce: str) -> str:
    """The text between two marker lines that carry the code."""
    words = _words()
    begin = words["open"].format(what=what.upper(), nonce=nonce)
    end = words["close"].format(what=what.upper(), nonce=nonce)
    return f"{begin}\n{visible(text)}\n{end}"


def guard_system(nonce: str) -> str:
    """The system message that tells the judge what the markers mean."""
    return _words()["system"].format(nonce=nonce).strip()


def ask_for_verdict(parser: str, labels: Sequence[str], minimum: float, maximum: float) -> str:
    """How the reply should end, for the parsers that look for such a line; else nothing."""
    if parser == "labelled":
        return _words()["ask_label"].format(labels=", ".join(labels))
    if parser == "score":
        return _words()["ask_score"].format(minimum=f"{minimum:g}", maximum=f"{maximum:g}")
    return ""


@functools.cache
def guard_version() -> str:
    """The wording of the guard, for fingerprints."""
    return yaml.safe_dump(_words(), sort_keys=True)
