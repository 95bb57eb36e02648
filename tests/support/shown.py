"""What the board's tables show, by names."""

from __future__ import annotations

from shiftdc_eval.board.index import Index
from shiftdc_eval.board.render.benchmarks import Benchmark, benchmarks
from shiftdc_eval.board.render.tables import Row, Table, Value


def tasks(index: Index) -> dict[str, Benchmark]:
    """The benchmarks of all models by title; with the model where two have one of that title."""
    found: dict[str, Benchmark] = {}
    for overview in index.overviews:
        for one in benchmarks(index, overview):
            found[f"{one.title} of {overview.model}" if one.title in found else one.title] = one
    return found


def rows(table: Table) -> dict[str, Row]:
    """Rows by name; the names are all different."""
    found = {row.name: row for row in table.rows}
    assert len(found) == len(table.rows)
    return found


def value(table: Table, row: str, column: str) -> Value:
    """The entry of a row in the column whose heading and unit begin so."""
    heads = [" ".join(head) for head in table.heads]
    (at,) = [at for at, head in enumerate(heads) if head.startswith(column)]
    return rows(table)[row].values[at]
