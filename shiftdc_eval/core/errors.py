"""The error tree.

    ShiftDCError
    ├── ConfigError       a setting, argument or file given by the user is wrong
    ├── DataError         a benchmark's data is missing or malformed
    ├── ModelError        a model cannot be loaded or does not offer what is asked of it
    │   └── ItemError     one request cannot be answered, others can: its item is unscored
    ├── DirectionError    a safety direction does not fit the model it is used with
    ├── JournalError      a journal or run folder cannot be used
    ├── JudgeError        a judge cannot work at all (one item it cannot judge is `unscored`, never an error)
    ├── RecordError       a cell, run record or board file is invalid
    └── WriteError        a file cannot be written

Each message says what was wrong, where the value came from and what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Blame = Literal["item", "request", "server"]
"""What a missing answer is due to: this item alone (an image that is refused, a content filter) · the form of the
request, which is every item's · a server (rate limits, time-outs)."""


class ShiftDCError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigError(ShiftDCError):
    """A setting, argument or file given by the user is wrong."""


class DataError(ShiftDCError):
    """A benchmark's data is missing or malformed."""


class ModelError(ShiftDCError):
    """A model cannot be loaded, or does not offer what is asked of it."""


class ItemError(ModelError):
    """One request cannot be answered, others can: its item is unscored, with this as the reason.

    Args:
        kind: the reason in a few words, the same for all items: run records count by it.
        detail: the reason for this item.
        blame: what it is due to; what is not the item's own fault is asked again at the next start.
    """

    def __init__(self, kind: str, detail: str, blame: Blame = "item") -> None:
        super().__init__(detail)
        self.kind = kind
        self.blame: Blame = blame


class DirectionError(ShiftDCError):
    """A safety direction does not fit the model it is used with."""


class JournalError(ShiftDCError):
    """A journal or a run folder cannot be used."""


class JudgeError(ShiftDCError):
    """A judge cannot work at all; a single item it cannot judge is `unscored` instead."""


class RecordError(ShiftDCError):
    """A cell, run record or board file is invalid."""


class WriteError(ShiftDCError):
    """A file cannot be written: the disk is full, the folder is read-only, something else stands there."""


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command as Ctrl-C does."""


def said_by(check: Callable[[], object]) -> list[str]:
    """The error lines of a check that raises; empty if it passes."""
    try:
        check()
    except ShiftDCError as error:
        return str(error).splitlines()
    return []
