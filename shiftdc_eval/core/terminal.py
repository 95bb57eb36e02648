"""Text for a terminal: what comes from files, models and servers must not steer it."""

from __future__ import annotations

import sys
import unicodedata
from io import TextIOWrapper

JOINERS = "\u200c\u200d"
"""Format characters that stay: scripts and emoji are written with them, and they move nothing."""

ROUTINE = {"routine": True}
"""`extra` of a log record that tells of a step, not of a problem: many runs that share a screen do not show it."""


def printable(text: object, keep: str = "") -> str:
    r"""Text in which nothing steers a terminal.

    Control characters (ANSI and OSC sequences, NUL, carriage returns), characters that turn the direction of
    writing or cannot be seen, and separators of lines become escapes (`\x1b`, `\u202e`); a lone surrogate, which no
    encoding can write, becomes U+FFFD.

    Args:
        text: anything; its `str` is used.
        keep: control characters that may stay, `"\n\t"` for text of several lines.
    """
    said = str(text)
    if said.isprintable():
        return said
    return "".join(one if one in keep else _escaped(one) for one in said)


def say(text: object, keep: str = "", *, error: bool = False) -> None:
    """Print a line for a terminal, on stdout or stderr; `keep` as in `printable`."""
    print(printable(text, keep), file=sys.stderr if error else sys.stdout)


def _escaped(one: str) -> str:
    category = unicodedata.category(one)
    if category == "Cs":
        return "\N{REPLACEMENT CHARACTER}"
    if category in ("Cc", "Zl", "Zp") or (category == "Cf" and one not in JOINERS):
        return one.encode("unicode_escape").decode("ascii")
    return one


def tolerate_encoding() -> None:
    """Let stdout and stderr escape what their encoding lacks (an arrow in ASCII) where they would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
