"""Numbers from papers, entered by hand with their source: one file per paper in `papers/`, or in a board's `reported/`.

A printed number that says where it belongs stands beside the measured ones of that model, task and defense on every
board; it is never ranked or compared with them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from shiftdc_eval.board.cell_files import Shelf
from shiftdc_eval.core.json_files import parse, read_text
from shiftdc_eval.core.records import Record

Text = Annotated[str, StringConstraints(max_length=1000)]
Filled = Annotated[str, StringConstraints(min_length=1, max_length=400)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class PaperSource(Record):
    """Source of the numbers."""

    authors: Filled
    title: Filled
    venue: Filled
    arxiv: Annotated[str, StringConstraints(pattern=r"^(\d{4}\.\d{4,5})?$")] = ""
    """Empty where it is not known."""
    short: Text = ""
    """Name beside a measured number; empty: its numbers stand beside none."""
    version: Text = ""
    """Which version of the paper."""


class Place(Record):
    """Which measured numbers a printed one stands beside; a table, its columns and its rows each say a part."""

    models: list[Text] = Field(default_factory=list)
    """Last parts of the models' ids, in lower case."""
    task: Text = ""
    defense: Text = ""
    """Name of the defense, whatever its settings; ablations are left out."""
    metric: Text = ""
    """Metric of the measured number."""
    what: Text = ""
    """What the printed number is over, if not over all answers."""

    def and_of(self, other: Place | None) -> Place:
        """Both parts together; the other's where both say something."""
        given = {} if other is None else other.model_dump(exclude_defaults=True)
        return self.model_copy(update=given)


class ReportedRow(Record):
    """One line of numbers."""

    label: Filled
    """Model, scenario or setting."""
    values: list[Number | None]
    """One number per column; None where the paper has none."""
    place: Place | None = None
    """Where its numbers belong."""


class ReportedTable(Record):
    """One table of a paper."""

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+$", max_length=80)]
    title: Filled
    benchmark: Filled
    metric: Filled
    unit: Literal["%", "points", "seconds", "%-points"]
    lower_is_better: bool
    judge: Text = ""
    """The judge, as far as the paper names it."""
    columns: Annotated[list[Filled], Field(min_length=1)]
    rows: Annotated[list[ReportedRow], Field(min_length=1)]
    place: Place | None = None
    """Where its numbers belong."""
    column_places: dict[Text, Place] = Field(default_factory=dict)
    """Where the numbers of a column belong."""
    detail: bool = False
    """True for tables that the page collapses."""
    notes: list[Text] = Field(default_factory=list)

    def shown(self, value: float | None) -> str:
        """A number with the decimals of its table, as papers print them; a dash for None."""
        if value is None:
            return "–"
        texts = [f"{one:g}" for row in self.rows for one in row.values if one is not None]
        decimals = max(len(text.partition(".")[2]) for text in texts)
        return f"{value:.{decimals}f}"

    def placed(self) -> Iterator[tuple[Place, str]]:
        """Every number that stands beside measured ones, as printed with its unit."""
        for row in self.rows:
            for column, value in zip(self.columns, row.values, strict=True):
                place = (self.place or Place()).and_of(self.column_places.get(column)).and_of(row.place)
                if value is not None and place.models and place.task and place.defense and place.metric:
                    yield place, self.shown(value) + (" %" if self.unit == "%" else "")

    @property
    def about(self) -> str:
        """Metric, unit, judge and notes in sentences."""
        better = "lower" if self.lower_is_better else "higher"
        judge = [f"Judge: {self.judge}."] if self.judge else []
        return " ".join([f"{self.metric}, {self.unit}; {better} is better.", *judge, *self.notes])

    @model_validator(mode="after")
    def _rows_fit(self) -> ReportedTable:
        for row in self.rows:
            if len(row.values) != len(self.columns):
                raise ValueError(
                    f"rows: {row.label!r} has {len(row.values)} values for {len(self.columns)} columns"
                )
        if unknown := self.column_places.keys() - set(self.columns):
            raise ValueError(f"column_places: {sorted(unknown)} are no columns")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError("columns: not unique")
        return self


class Reported(Record):
    """One paper."""

    reported_version: Literal[1]
    source: PaperSource
    notes: list[Text] = Field(default_factory=list)
    tables: Annotated[list[ReportedTable], Field(min_length=1)]

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Reported:
        ids = [table.id for table in self.tables]
        if len(set(ids)) != len(ids):
            raise ValueError("tables: ids are not unique")
        return self

    def beside(self, model: str, task: str, defense: str) -> dict[str, list[str]]:
        """Its numbers for a measured result, with its name, by metric.

        Args:
            model: last part of the model's id.
        """
        return self.numbers.get((model.lower(), task, defense), {})

    @cached_property
    def numbers(self) -> dict[tuple[str, str, str], dict[str, list[str]]]:
        """Its numbers by model, task and defense, then by metric."""
        found: dict[tuple[str, str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for place, printed in (one for table in self.tables if self.source.short for one in table.placed()):
            said = f"{self.source.short}: {printed}{f' ({place.what})' if place.what else ''}"
            for model in place.models:
                found[model, place.task, place.defense][place.metric].append(said)
        return found

    def without_places(self) -> Reported:
        """As the index holds it."""
        tables = [
            table.model_copy(
                update={
                    "place": None,
                    "column_places": {},
                    "rows": [row.model_copy(update={"place": None}) for row in table.rows],
                }
            )
            for table in self.tables
        ]
        return self.model_copy(update={"tables": tables})


REPORTED = Shelf("reported", Reported)


@cache
def shipped() -> tuple[Reported, ...]:
    """The papers that come with this package."""
    folder = Path(__file__).with_name("papers")
    return tuple(parse(read_text(path), Reported, path) for path in sorted(folder.glob("*.json")))
