"""Numbers from papers, entered by hand with their source: one file per paper in `reported/`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from shiftdc_eval.board.cell_files import Shelf
from shiftdc_eval.core.records import Record

Text = Annotated[str, StringConstraints(max_length=1000)]
Filled = Annotated[str, StringConstraints(min_length=1, max_length=400)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class PaperSource(Record):
    """Source of the numbers."""

    authors: Filled
    title: Filled
    venue: Filled
    arxiv: Annotated[str, StringConstraints(pattern=r"^\d{4}\.\d{4,5}$")]
    version: Text = ""
    """Which version of the paper."""


class ReportedRow(Record):
    """One line of numbers."""

    label: Filled
    """Model, scenario or setting."""
    values: list[Number | None]
    """One number per column; None where the paper has none."""


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


REPORTED = Shelf("reported", Reported)
