"""The columns of the results tables: one entry makes a column of the page, of the Markdown and of the legend."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from made import small_grid

from shiftdc_eval.board.build import build, generate, index_of
from shiftdc_eval.board.cell_files import CELLS
from shiftdc_eval.board.index import Index
from shiftdc_eval.board.render import columns
from shiftdc_eval.board.render.columns import Column, columns_of, grouped, legend
from shiftdc_eval.board.render.sections import sections_of


class Tables(HTMLParser):
    """The cells of the results tables by row, heads included, and the entries of the legend."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.terms: list[str] = []
        self._tag = ""
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._inside = dict(attrs).get("class") == "sort"
        elif tag == "tr" and self._inside:
            self.rows.append([])
        elif tag in ("td", "th") and self._inside:
            self.rows[-1].append("")
        elif tag == "dt":
            self.terms.append("")
        self._tag = tag

    def handle_data(self, data: str) -> None:
        if self._inside and self._tag in ("td", "th") and self.rows[-1]:
            self.rows[-1][-1] += data.strip()
        elif self._tag == "dt":
            self.terms[-1] += data.strip()


@pytest.fixture
def found(results: Path, board: Path) -> Index:
    """The index of a board with two models, three defenses and three tasks."""
    small_grid(results)
    build([results], board)
    return index_of(CELLS.all_of(board), [])


def test_one_entry_adds_a_column_to_page_markdown_and_legend(
    found: Index, board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Tables((board / "index.html").read_text())
    added = Column("file", "file of the cell", lambda line: line.cell.path, lambda path, metric: path.upper())
    monkeypatch.setattr(columns, "COLUMNS", [*columns.COLUMNS, added])
    files = generate(CELLS.all_of(board), [])
    wanted = [line.cell.path.upper() for section in sections_of(found) for line in section.lines]
    assert len(wanted) == 24
    page = Tables(files["index.html"])
    assert {*page.terms} - {*before.terms} == {"file"}
    assert "<dd>file of the cell</dd>" in files["index.html"]
    assert [row[:-1] for row in page.rows] == before.rows
    assert [row[-1] for row in page.rows if row[-1] != "file"] == wanted
    table = [line.split(" | ") for line in files["leaderboard.md"].splitlines() if line.startswith("| ")]
    shown = [row[-3] for row in table if not row[0].startswith("| ---")]  # remarks and cell come last
    assert [one.replace("\\_", "_") for one in shown if one != "file"] == wanted
    assert shown.count("file") == 4


def test_every_column_of_a_section_has_a_meaning_in_one_line(found: Index) -> None:
    meanings = legend(sections_of(found))
    for section in sections_of(found):
        for where in ("page", "markdown"):
            for column, _ in grouped(columns_of(section), where):
                assert meanings[column.title], column.title
                assert "\n" not in meanings[column.title]
                assert len(meanings[column.title]) < 120


def test_page_and_markdown_have_the_same_values(found: Index) -> None:
    for section in sections_of(found):
        both = [
            {column.title for column, _ in grouped(columns_of(section), where)}
            for where in ("page", "markdown")
        ]
        assert both[0] <= both[1]
        # on the page these are shown inside the cell of the value
        assert both[1] - both[0] == {"95 %", *section.official}


def test_a_column_without_any_value_is_left_out_of_a_page_and_is_a_dash_in_markdown(
    results: Path, board: Path
) -> None:
    small_grid(results)
    build([results], board, times=False)
    assert "time / none" not in (board / "index.html").read_text().partition("<dl>")[0]
    assert "| time / none |" in (board / "leaderboard.md").read_text()
