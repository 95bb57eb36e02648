"""Exact match with a reference answer, as a judge."""

from __future__ import annotations

import re

from shiftdc_eval.tasks.answer_rule import AnswerRule


def short(text: str) -> str:
    """A short answer in lower case, without punctuation and leading article."""
    words = re.findall(r"\w+", text.lower())
    return " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)


EXACT_MATCH = AnswerRule("exact_match", short, gives_reason=False)
"""1 if the answer equals the reference, ignoring case, punctuation and a leading article; else 0."""
