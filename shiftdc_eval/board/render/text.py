"""Text of others as a page may hold it: no control characters, and nothing that reorders what stands around it."""

from __future__ import annotations

import re
from typing import Any

from shiftdc_eval.board.index import Index

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
"""Characters that no page may hold: controls but tab and line feed, lone surrogates, noncharacters."""
DIRECTION = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Marks that set the direction of text; in names and notes they only serve to deceive."""


def clean(text: object) -> str:
    """Any value as text that a page may hold."""
    return CONTROL.sub("\ufffd", str(text))


def readable(index: Index) -> Index:
    """The index with every text cleaned, direction marks included."""
    return Index.model_validate(_cleaned(index.model_dump()))


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return DIRECTION.sub("\ufffd", clean(value))
    if isinstance(value, dict):
        return {_cleaned(name): _cleaned(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(part) for part in value]
    return value
