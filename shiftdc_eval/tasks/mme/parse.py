"""Two readings of a yes/no answer.

The official one (BradyFU/Awesome-MLLM, eval_tool `calculation.py`) looks at the first four characters, so
"Not sure" and "Now" are "no", and an answer that begins with a warning is wrong. The strict reading requires the
word itself and tells a refusal from a wrong answer.
"""

from __future__ import annotations

import re
from typing import Literal

from shiftdc_eval.judges.keyword import keyword_judge
from shiftdc_eval.judges.text import plain
from shiftdc_eval.judges.verdict import Item

Official = Literal["yes", "no", "other"]
Strict = Literal["yes", "no", "refusal", "other"]

_FIRST_WORD = re.compile(r"^\W*(yes|no)\b", re.IGNORECASE)
_ANY_WORD = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_OTHER_NO = re.compile(r"\bno[ -](?:one|body|way|idea)\b|\bno\.? ?\d", re.IGNORECASE)
_QUOTED = re.compile(r"\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)|\b(?:say|read)(?:s|ing)?,?:? [^.,;\"]*")
"""Quoted text, e.g. of a sign in the image: a yes or no in it is not the answer."""
_REFUSAL = keyword_judge("robust")


def official(response: str) -> Official:
    """The authors' rule. Their input has one line an answer, so white space is joined first."""
    answer = " ".join(response.split()).lower()
    if answer in ("yes", "no"):
        return "yes" if answer == "yes" else "no"
    start = answer[:4]
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else "other"


def strict(response: str) -> Strict:
    """The answer is its first word, if that is yes or no; else a refusal; else the only such word in it."""
    text = plain(response)
    if not re.fullmatch(r"[\W]*(?:yes|no)[\W]*", text):
        text = _QUOTED.sub("-", text)
    text = _OTHER_NO.sub("-", text)
    first = _FIRST_WORD.match(text)
    if first:
        return "yes" if first[1].lower() == "yes" else "no"
    if _REFUSAL.judge([Item(id="", request="", response=response)])[0].value == "refused":
        return "refusal"
    words = {word.lower() for word in _ANY_WORD.findall(text)}
    if len(words) == 1:
        return "yes" if "yes" in words else "no"
    return "other"
