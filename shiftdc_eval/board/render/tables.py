"""Tables as page and Markdown show them; lower is better in every column of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Value:
    """One entry."""

    text: str = "–"
    small: str = ""
    """Interval or p-value."""
    notes: Sequence[str] = ()
    """More lines below it."""
    printed: Sequence[str] = ()
    """Numbers that papers print, told apart by their form."""
    best: bool = False
    """Not separable from the lowest of its class."""


@dataclass(frozen=True)
class Row:
    """One defense."""

    name: str
    values: list[Value]
    cells: list[int] = field(default_factory=list)
    """Positions in the index of its cells."""
    notes: Sequence[str] = ()
    """What a reader must know of it."""
    compared: bool = True
    """False for what is shown in grey."""


@dataclass(frozen=True)
class Part:
    """Rows under one heading; empty for a table of one part."""

    title: str
    rows: list[Row]


@dataclass(frozen=True)
class Table:
    """A table with a heading for each column after the first, which names the defense."""

    title: str
    heads: list[tuple[str, str]]
    """(title, what it is of)."""
    parts: list[Part]

    @property
    def rows(self) -> list[Row]:
        """The rows of all parts."""
        return [row for part in self.parts for row in part.rows]
