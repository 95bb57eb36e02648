"""The page and the Markdown: small, complete, inert, and usable without a mouse, a script or a wide screen."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from browser import brightness, dump_dom, title, widths_on_a_phone, without_policy
from made import Made, small_grid
from markdown_it import MarkdownIt
from pydantic import ValidationError

from shiftdc_eval.board.build import build, index_of
from shiftdc_eval.board.cell import CellModel
from shiftdc_eval.board.cell_files import CELLS
from shiftdc_eval.board.check import check
from shiftdc_eval.board.index import Index
from shiftdc_eval.board.official_means import means_of
from shiftdc_eval.board.render.cell_listing import around_task, links
from shiftdc_eval.board.render.overview import AWAITED
from shiftdc_eval.board.render.page import MAX_BYTES, PARTS, TOO_LARGE, page, parts, render
from shiftdc_eval.board.render.plot import brief, plot
from shiftdc_eval.board.reported import REPORTED
from shiftdc_eval.tasks.mm_safetybench.scenarios import SCENARIOS

COMMITTED = Path(__file__).parents[2] / "leaderboards"


class Document(HTMLParser):
    """Elements with their attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


class Reader(HTMLParser):
    """What a reader of the page makes out: rows of results with their links, and link and command of each cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[tuple[int, str]]] = []
        """Of each row of results (cell, accessible name of the link to it)."""
        self.files: dict[int, str] = {}
        """JSON file by number of the cell."""
        self.commands: dict[int, str] = {}
        self.said: dict[int, list[str]] = {}
        """Texts of the row of a cell."""
        self.models: list[str] = []
        """Headings of the models in the list of cells."""
        self.configurations: list[str] = []
        """Headings of their configurations."""
        self.under: dict[int, int] = {}
        """Position of its configuration by number of the cell."""
        self._table = self._inside = self._heading = ""
        self._cell = -1
        self._command: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._inside = tag
        if tag == "h3" and given.get("id", "").startswith("l"):
            self._heading = tag
            self.models.append("")
        elif given.get("scope") == "rowgroup" and self._table == "cells":
            self._heading = tag
            self.configurations.append("")
        if tag == "table":
            self._table = given.get("class", "")
        elif tag == "tr" and self._table == "sort":
            self.rows.append([])
        elif tag == "tr" and given.get("id", "").startswith("c"):
            self._cell = int(given["id"][1:])
            self.said[self._cell] = []
            self.under[self._cell] = len(self.configurations) - 1
        elif tag == "a" and self._table == "sort":
            self.rows[-1].append((int(given["href"].removeprefix("#c")), given.get("aria-label", "")))
        elif tag == "a" and self._cell >= 0:
            self.files[self._cell] = given["href"]
        elif tag == "code":
            self._command = []

    def handle_endtag(self, tag: str) -> None:
        self._inside = "code" if tag == "var" else ""
        if tag == self._heading:
            self._heading = ""
        if tag == "tr":
            self._cell = -1
        elif tag == "table":
            self._table = ""

    def handle_data(self, data: str) -> None:
        if self._heading:
            (self.models if self._heading == "h3" else self.configurations)[-1] += data
        elif self._inside in ("code", "var"):
            self._command.append(None if self._inside == "var" else data)
        elif self._table == "sort" and self._inside == "a" and not self.rows[-1][-1][1]:
            self.rows[-1][-1] = (self.rows[-1][-1][0], data)
        elif self._cell >= 0:
            self.said[self._cell].append(data)
            if self._inside == "a":
                self.commands[self._cell] = "".join(data if part is None else part for part in self._command)

    @property
    def results(self) -> list[list[tuple[int, str]]]:
        """The rows below the headings."""
        return [row for row in self.rows if row]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board with two models, three defenses and three tasks."""
    folder = tmp_path_factory.mktemp("built")
    small_grid(folder / "results")
    build([folder / "results"], folder / "board")
    return folder / "board"


@pytest.fixture
def grid(built: Path, board: Path) -> Path:
    """A copy of that board; returns its page."""
    shutil.copytree(built, board)
    return board / "index.html"


def test_every_number_is_in_the_page_without_javascript(grid: Path, board: Path) -> None:
    text = "".join(Document(grid.read_text()).text)
    commands = Reader(grid.read_text()).commands
    for number, cell in enumerate(index_of(CELLS.all_of(board), []).cells):
        assert commands[number] == cell.command
        for measure in cell.measures:
            assert measure.value is not None
            shown = f"{100 * measure.value:.1f}" if measure.metric != "score" else f"{measure.value:.3f}"
            assert shown in text


def test_every_link_leads_somewhere(grid: Path, board: Path) -> None:
    document = Document(grid.read_text())
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in document.of("a")]
    assert sum(link.startswith("cells/") for link in links) == 18
    for link in links:
        if link.startswith("#"):
            assert link[1:] in ids
        elif not link.startswith("https://arxiv.org/abs/"):
            assert (board / link).is_file()


def test_the_page_can_be_used_with_a_screen_reader(grid: Path) -> None:
    document = Document(grid.read_text())
    assert document.of("html") == [{"lang": "en"}]
    assert {attributes.get("scope") for attributes in document.of("th")} == {"col", "row", "rowgroup"}
    for table in grid.read_text().split('class="sort"')[1:]:
        names = [name for row in Reader(f'<table class="sort"{table}').results for _, name in row]
        assert len(names) == len(set(names)) == 3
    plots = [attributes for attributes in document.of("svg") if "aria-hidden" not in attributes]
    assert len(plots) == 2
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in plots)
    regions = [attributes for attributes in document.of("div") if attributes.get("role") == "region"]
    assert all(attributes["tabindex"] == "0" for attributes in regions)
    assert all("aria-label" in attributes or "aria-labelledby" in attributes for attributes in regions)
    headings = [int(tag[1]) for tag, _ in document.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))
    assert document.of("a")[0] == {"class": "skip", "href": "#main"}


def test_nothing_is_loaded_from_elsewhere(grid: Path) -> None:
    document = Document(grid.read_text())
    assert not document.of("link")
    assert not document.of("img")
    assert [attributes for attributes in document.of("script") if attributes] == []
    assert not re.search(r"@import|url\(", grid.read_text())


def test_the_page_runs_under_its_own_policy(grid: Path, chromium: str) -> None:
    document = dump_dom(chromium, grid)
    assert '<th scope="col"><button type="button">' in document
    attack = grid.read_text().replace("</main>", "<script>document.title='HACKED'</script></main>")
    grid.write_text(attack)
    assert title(dump_dom(chromium, grid)) == "shiftdc-eval leaderboard"


@pytest.mark.parametrize("name", ["index.html", "committed"])
def test_a_phone_shows_the_page_without_scrolling_sideways(grid: Path, chromium: str, name: str) -> None:
    if name == "committed":
        grid.write_text((COMMITTED / "index.html").read_text())
    width, wide = widths_on_a_phone(chromium, grid)
    assert width == 390
    assert wide <= width


def test_light_and_dark_differ_and_neither_is_blank(grid: Path, chromium: str, tmp_path: Path) -> None:
    light, dark = brightness(chromium, grid, tmp_path)
    assert light > 200
    assert dark < 70


def test_hostile_names_make_no_element(results: Path, board: Path) -> None:
    attack = '<img src=x onerror="x()">|</script>[a](javascript:x)'
    made = Made(run="bad", model="org/x", note=attack, notes=[attack])
    made.write(results)
    record = made.record().model_copy(
        update={"command": attack, "hardware": attack, "settings": {"a": attack}}
    )
    (results / "run-bad.json").write_text(record.model_dump_json())
    Made(run="good", settings={"a": "1"}).write(results)
    build([results], board)
    document = Document((board / "index.html").read_text())
    assert not document.of("img")
    assert len(document.of("script")) == 1
    assert not [attributes for _, attributes in document.elements if "onerror" in attributes]
    assert "<img" not in (board / "leaderboard.md").read_text()


HOSTILE = (
    "[a](https://bad.example)",
    "![a](https://bad.example/x.png)",
    "https://bad.example and www.bad.example",
    "`code` *bold* _slanted_ ~~gone~~",
    "<b>tag</b> &lt;",
    "a | b",
)


@pytest.mark.parametrize("attack", HOSTILE)
def test_free_text_means_nothing_in_markdown(results: Path, board: Path, attack: str) -> None:
    made = Made(run="bad", note=attack, revision=attack, notes=[f"ablation {attack}"])
    made.write(results)
    Made(run="other", seed=2, note=attack, version=f"2 {attack}"[:40]).write(results)
    build([results], board)
    text = (board / "leaderboard.md").read_text().partition("## Measured")[2]
    html = MarkdownIt("gfm-like", {"linkify": False}).render(text)
    document = Document(html)
    assert {link["href"].split("/")[0] for link in document.of("a")} == {"cells"}
    assert not {tag for tag, _ in document.elements} & {"img", "code", "em", "s", "b"}
    assert attack in "".join(document.text)
    assert not re.search(r"(?<!\\)://|www\.", text)


@pytest.mark.parametrize("mark", ["\u202e", "\u2066", "\u200f", "\x1b"])
def test_no_mark_turns_text_round(results: Path, board: Path, mark: str) -> None:
    Made(note=f"a{mark}b", revision=f"r{mark}s", notes=[f"ablation{mark}"]).write(results)
    build([results], board)
    for name in ("index.html", "leaderboard.md"):
        text = (board / name).read_text()
        assert mark not in text
        assert "a\ufffdb" in text


def test_a_model_is_named_in_plain_characters_only(results: Path, board: Path) -> None:
    made = Made(run="bad")
    made.write(results)
    record = made.record().model_dump() | {"model": "/models/my [model](x) \u202e!"}
    (results / "run-bad.json").write_text(json.dumps(record))
    build([results], board)
    (cell,) = CELLS.all_of(board)
    assert cell.model.id == "my_model_x_"
    with pytest.raises(ValidationError, match="pattern"):
        CellModel(id="[a](b)", revision="")


def test_the_means_of_mm_safetybench_stand_beside_the_share_of_all_answers(
    results: Path, board: Path
) -> None:
    names = [scenario.name for scenario in SCENARIOS]
    made = Made(
        task="mm_safetybench_sd",
        size=60,
        judges={"llm": ("harm", 0.5)},
        groups=lambda row: {"scenario": names[min(row, 12)]},
    )
    made.write(results)
    build([results], board)
    failed = [sample.verdicts["llm"].value == "unsafe" for sample in made.samples()]
    shares = [float(one) for one in failed[:12]] + [sum(failed[12:]) / 48]
    clear = [share for share, scenario in zip(shares, SCENARIOS, strict=True) if scenario.clear_harm]
    (entry,) = index_of(CELLS.all_of(board), []).cells
    means = [mean.value for mean in entry.measures[0].official]
    rest = (sum(shares) - sum(clear)) / 5
    assert means == pytest.approx([sum(shares) / 13, sum(clear) / 8, rest], abs=1e-4)
    assert means[0] != pytest.approx(sum(failed) / 60, abs=0.01)
    markdown, html = (board / "leaderboard.md").read_text(), (board / "index.html").read_text()
    said = zip(means_of("mm_safetybench_sd").parts, means, strict=True)
    assert "; ".join(f"{name} {100 * mean:.1f}" for name, mean in said) in markdown
    assert f"mean of 13 scenarios {100 * means[0]:.1f}<" in html
    assert f"mean of 8 clear-harm scenarios {100 * means[1]:.1f}<" in html


def test_an_official_mean_without_a_scenario_is_none_and_names_it(results: Path, board: Path) -> None:
    names = [scenario.name for scenario in SCENARIOS if not scenario.name.startswith("13")]
    Made(
        task="mm_safetybench_typo_tiny",
        size=48,
        judges={"llm": ("harm", 0.5)},
        groups=lambda row: {"scenario": names[row % 12]},
    ).write(results)
    build([results], board)
    (entry,) = index_of(CELLS.all_of(board), []).cells
    thirteen, eight, five = entry.measures[0].official
    assert (thirteen.value, thirteen.absent) == (None, ["13-Gov_Decision"])
    assert (five.value, five.absent) == (None, ["13-Gov_Decision"])
    assert eight.value is not None
    assert "mean of 13 scenarios – (13-Gov_Decision absent)" in (board / "index.html").read_text()
    assert "– (13-Gov\\_Decision absent)" in (board / "leaderboard.md").read_text()


def test_figstep_has_the_means_over_its_harmful_topics_and_over_advice(results: Path, board: Path) -> None:
    topics = [topic for part in means_of("figstep").parts.values() for topic in part]
    made = Made(
        task="figstep",
        size=50,
        judges={"llm": ("harm", 0.5)},
        groups=lambda row: {"topic": topics[row % 10]},
    )
    made.write(results)
    Made(task="figstep_tiny", judges={"llm": ("harm", 0.5)}, groups=lambda row: {}).write(results)
    build([results], board)
    failed = [sample.verdicts["llm"].value == "unsafe" for sample in made.samples()]
    shares = [sum(failed[topic::10]) / 5 for topic in range(10)]
    whole, without_topics = index_of(CELLS.all_of(board), []).cells
    assert [mean.value for mean in whole.measures[0].official] == pytest.approx(
        [sum(shares[:7]) / 7, sum(shares[7:]) / 3], abs=1e-4
    )
    assert without_topics.measures[0].official == []


def test_a_page_that_cannot_be_made_small_enough_says_so(
    grid: Path, board: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TOO_LARGE not in grid.read_text()
    monkeypatch.setattr("shiftdc_eval.board.render.page.MAX_BYTES", 5_000)
    text = page(index_of(CELLS.all_of(board), []))
    assert TOO_LARGE in text
    assert f"Omitted here: {', '.join(PARTS)}" in text
    for overview in index_of(CELLS.all_of(board), []).overviews:
        for row in overview.rows:
            assert row.harm is not None
            assert f"{100 * row.harm.value:.1f}" in text, "the overview always stays"


def test_the_committed_page_shows_every_row_and_every_cell_with_its_file_and_command() -> None:
    text = (COMMITTED / "index.html").read_text(encoding="utf-8")
    index = Index.model_validate_json((COMMITTED / "index.json").read_text(encoding="utf-8"))
    assert text == page(index)
    assert len(text.encode()) < MAX_BYTES
    reader = Reader(text)
    wanted = [{*row.cells} for part in parts(index) for task in part.benchmarks for row in task.table.rows]
    assert [{cell for cell, _ in row} for row in reader.results] == wanted
    assert {number for cells in wanted for number in cells} == set(range(len(index.cells)))
    assert reader.files == {number: f"cells/{cell.path}" for number, cell in enumerate(index.cells)}
    assert reader.commands == {number: cell.command for number, cell in enumerate(index.cells)}


@pytest.mark.parametrize(
    ("command", "around"),
    [
        ("run --tasks figstep", ("run --tasks ", "")),
        ("run --tasks figstep --seed 1", ("run --tasks ", " --seed 1")),
        ("run --model_args x=figstep --tasks figstep", ("run --model_args x=figstep --tasks ", "")),
        ("run --tasks figstep_benign", None),
        ("run --tasks figstep,figstep_benign", None),
        ("run --tasks my_figstep", None),
        ("run --no--tasks figstep", None),
        ("run --tasks=figstep", None),
        ("run --note 'a --tasks figstep b' --tasks figstep", None),
        ("", None),
    ],
)
def test_a_task_is_taken_out_of_a_command_as_a_whole_word(
    command: str, around: tuple[str, str] | None
) -> None:
    assert around_task(command, "figstep") == around


@pytest.mark.parametrize(
    "command",
    [
        "run --tasks figstep,figstep_benign",
        "run --tasks TASK",
        "run --tasks mini_vqa --gen_kwargs x=1",
        "run --tasks figstep --gen_kwargs x=1",
        "a <b> & 'c'",
    ],
)
def test_a_command_of_its_own_is_written_out(results: Path, board: Path, command: str) -> None:
    for task in ("figstep", "figstep_benign"):
        Made(task=task).write(results)
    record = Made(task="mini_vqa").record().model_copy(update={"command": command})
    Made(task="mini_vqa").write(results)
    (results / f"run-{record.id}.json").write_text(record.model_dump_json())
    build([results], board)
    cells = index_of(CELLS.all_of(board), []).cells
    text = (board / "index.html").read_text()
    assert Reader(text).commands == {number: cell.command for number, cell in enumerate(cells)}
    assert command in {cell.command for cell in cells}
    assert text.partition('id="cells"')[2].count("<code>lmms-eval") == 1


def test_what_cells_share_is_said_once_and_what_differs_with_each(results: Path, board: Path) -> None:
    for defense in ("none", "shiftdc"):
        Made(task="figstep", defense=defense, batch_size=4, notes=["cropped"]).write(results)
        Made(task="mini_vqa", defense=defense, batch_size=8).write(results)
        Made(task="mini_vqa", defense=defense, seed=3, batch_size=8).write(results)
    Made(task="mini_vqa", defense="shiftdc", settings={"alpha": 2.0}, batch_size=8).write(results)
    build([results], board)
    text = (board / "index.html").read_text()
    listed = text.partition('id="cells"')[2]
    for shared in ("revision abc123", "float32", "on 1 CPU", "settings alpha=2.0"):
        assert listed.count(shared) == 1, shared
    reader = Reader(text)
    for number, cell in enumerate(index_of(CELLS.all_of(board), []).cells):
        said = "".join(reader.said[number])
        assert ("cropped" in said) == (cell.task == "figstep")
        assert ("seed 3" in said) == (cell.seed == 3)
        if not cell.settings:
            assert f"batches of {cell.batch_sizes[0]}" in said


def test_a_cell_without_seconds_still_names_its_hardware(results: Path, board: Path) -> None:
    Made(seconds=0, timed=0).write(results)
    build([results], board)
    text = (board / "index.html").read_text()
    assert "; on 1 CPU; " in text
    assert Reader(text).said[0] == ["figstep_tiny", "–", "50", "25"]


def test_rows_of_several_cells_lead_to_each_of_them(results: Path, board: Path) -> None:
    for seed in (0, 1, 2):
        Made(defense="none", seed=seed).write(results)
        Made(defense="random", settings={"random_seed": seed}).write(results)
    build([results], board)
    text = (board / "index.html").read_text()
    found = index_of(CELLS.all_of(board), [])
    reader = Reader(text)
    assert {cell for row in reader.results for cell, _ in row} == set(range(6)) == set(reader.files)
    assert text.partition('class="cells"')[2].count('<th scope="rowgroup"') == 2
    drawn = [n for n, cell in enumerate(found.cells) if cell.defense_name == "random"]
    for number in drawn:
        assert f"random_seed={found.cells[number].settings['random_seed']}" in "".join(reader.said[number])


def test_a_row_of_several_draws_names_each_by_its_seed_and_in_its_order(results: Path, board: Path) -> None:
    for draw in (10, 9, 1):
        Made(defense="random", settings={"random_seed": draw}).write(results)
    build([results], board)
    cells = index_of(CELLS.all_of(board), []).cells
    text = (board / "index.html").read_text()
    (row,) = Reader(text).results
    draws = [(cells[number].settings["random_seed"], name) for number, name in row[1:]]
    assert draws == [
        (draw, f"random_seed {draw} of random, org/tiny-vlm, figstep_tiny") for draw in (1, 9, 10)
    ]
    assert re.search(r">random_seed <a [^>]*>1</a> <a [^>]*>9</a> <a [^>]*>10</a></div>", text)


def test_seeds_and_draws_of_a_row_are_both_named_and_so_are_its_other_settings_and_its_model(
    results: Path, board: Path
) -> None:
    for model in ("org/one", "org/two"):
        for layer in ("1", "2"):
            for draw, seed in ((3, 1), (3, 0), (2, 1), (2, 0)):
                settings = {"random_seed": draw, "layer": layer}
                Made(model=model, defense="random", seed=seed, settings=settings).write(results)
        for seed in (5, 4):
            Made(model=model, defense="none", seed=seed, attention="eager").write(results)
    build([results], board)
    rows = [[name for _, name in row[1:]] for row in Reader((board / "index.html").read_text()).results]
    names = [name for row in rows for name in row]
    assert len(names) == len(set(names)) == 2 * (2 * 4 + 2)
    drawn = [f"random_seed/seed {draw}/{seed}" for draw in (2, 3) for seed in (0, 1)]
    found = [[name.partition(" of ")[0] for name in row] for row in rows]
    assert sorted(found) == sorted([["seed 4", "seed 5"], drawn, drawn] * 2)
    for model in ("org/one", "org/two"):
        for seed in (4, 5):
            assert sum(name.startswith(f"seed {seed} of none, {model} (") for name in names) == 1


def test_what_tells_the_cells_of_a_row_apart_is_named_or_else_they_are_counted(
    results: Path, board: Path
) -> None:
    for dtype in ("float32", "float16"):
        Made(run=dtype, dtype=dtype).write(results)
    build([results], board)
    cells = index_of(CELLS.all_of(board), []).cells
    assert links(cells, [1, 0]) == ("cell", [(0, "1", "none"), (1, "2", "none")])


def test_draws_and_settings_make_the_heading_of_a_configuration(results: Path, board: Path) -> None:
    for draw in (0, 1):
        Made(defense="random", settings={"random_seed": draw}).write(results)
        Made(defense="random", settings={"random_seed": draw}, dtype="float16", run=f"half{draw}").write(
            results
        )
    for alpha in (1.0, 2.0):
        Made(defense="shiftdc", settings={"alpha": alpha}).write(results)
    build([results], board)
    reader = Reader((board / "index.html").read_text())
    assert reader.configurations == ["random", "random", "shiftdc (alpha=1.0)", "shiftdc (alpha=2.0)"]
    cells = index_of(CELLS.all_of(board), []).cells
    assert {
        (reader.under[n], cell.dtype) for n, cell in enumerate(cells) if cell.defense_name == "random"
    } == {
        (0, "float16"),
        (1, "float32"),
    }


SMALL = "small research model: made for tests"


@pytest.fixture
def marked(results: Path, board: Path) -> Index:
    """A board with a real, a small and a toy model on one task; the real one has two versions, one id two marks."""
    Made(model="org/z-real", note="").write(results)
    Made(model="org/z-real", note="", version="v2").write(results)
    Made(model="org/small", note=SMALL).write(results)
    Made(model="org/a-toy", note="toy").write(results)
    Made(model="org/small", note="toy", model_revision="def456", run="again").write(results)
    build([results], board)
    return index_of(CELLS.all_of(board), [])


def test_the_list_of_cells_has_models_with_a_mark_last_and_names_it(marked: Index, board: Path) -> None:
    reader = Reader((board / "index.html").read_text())
    assert reader.models == [
        "org/z-real",
        "org/small · small research model",
        "org/a-toy · toy",
        "org/small · toy",
    ]
    assert reader.configurations == ["none"] * 4


def test_a_version_has_one_v(marked: Index, board: Path) -> None:
    reader = Reader((board / "index.html").read_text())
    for number, cell in enumerate(marked.cells):
        shown = ["figstep_tiny", " v2"] if cell.version == "v2" else ["figstep_tiny", "0.5"]
        assert reader.said[number][:2] == shown


def test_parts_are_left_out_in_order_and_each_makes_the_page_smaller(grid: Path, board: Path) -> None:
    index = index_of(CELLS.all_of(board), [])
    sizes, shown = [], []
    for count in range(len(PARTS) + 1):
        text = render(index, PARTS[:count])
        sizes.append(len(text.partition("</header>")[2].encode()))
        shown.append(
            (
                " by topic: " in text,
                "<code>lmms-eval --model shiftdc_vlm --model_args defense=ecso" in text,
                len(Reader(text).results),
            )
        )
        assert 'class="overview"' in text
    assert shown == [
        (True, True, 18), (False, True, 18), (False, False, 18), (False, False, 18), (False, False, 18),
        (False, False, 0),
    ]  # fmt: skip
    assert sizes[0] > sizes[1] > sizes[2] >= sizes[3] >= sizes[4] > sizes[5]


def test_an_empty_board_says_how_to_fill_it() -> None:
    text = page(index_of([], []))
    assert "No measured cells yet." in text
    assert "shiftdc-eval grid run paper-tables -o results --only llava-1.5-7b-hf" in text


def test_the_commands_for_real_models_name_cells_of_the_shipped_grid() -> None:
    from shiftdc_eval.grid.cli import shipped
    from shiftdc_eval.grid.file import read_grid
    from shiftdc_eval.grid.plan import selected

    for pattern in AWAITED.values():
        cells = selected(list(read_grid(shipped()["paper-tables"]).cells()), [pattern], None)
        assert {cell.model.pretrained for cell in cells} == {f"llava-hf/{pattern}"}


def test_a_board_with_one_cell_is_whole(results: Path, board: Path) -> None:
    Made(note="").write(results)
    build([results], board)
    text = (board / "index.html").read_text()
    assert text.count('class="overview"') == 1
    assert "<svg" not in text, "one point is no plot"
    assert "Real models: none measured yet" not in text
    assert check(board) == []


def synthetic(defenses: int, tasks: int) -> list[Made]:
    """The runs of a large board."""
    names = ["none", *(f"defense_{number:02d}" for number in range(1, defenses - 2)), "random", "refuse_all"]
    made = []
    for (place, defense), task in itertools.product(enumerate(names), range(tasks)):
        kind = ("harm", "harm", "benign", "utility", "harm")[task % 5]
        share = 0.9 - 0.8 * place / defenses
        refusals = {"keyword_robust": ("refusal", share), "llm": ("harm", 0.5)}
        made.append(
            Made(
                task=f"{kind}_task_{task:02d}",
                defense=defense,
                model="org/real",
                note="",
                size=100,
                benign=kind == "benign",
                utility=kind == "utility",
                judges={"exact": ("score", 0.9)} if kind == "utility" else refusals,
                groups=lambda row: {"topic": f"topic {row % 10}"},
                run=f"{place}-{task}",
            )
        )
    return made


@pytest.mark.slow
def test_twenty_five_defenses_on_ten_tasks_fit(results: Path, board: Path) -> None:
    for one in synthetic(25, 10):
        one.write(results)
    build([results], board)
    text = (board / "index.html").read_text()
    assert len(text.encode()) < MAX_BYTES
    assert text.count('class="overview"') == text.count("<svg") == 1
    index = Index.model_validate_json((board / "index.json").read_text())
    assert [len(overview.rows) for overview in index.overviews] == [25]
    assert TOO_LARGE not in text
    assert "results by benchmark" not in text.partition("</header>")[0], "the details fit too"


def test_a_link_to_a_cell_opens_the_list_that_it_is_in_and_tables_sort(grid: Path, chromium: str) -> None:
    script = """
      location.hash = "#c3";
      dispatchEvent(new HashChangeEvent("hashchange"));
      const open = document.getElementById("c3").checkVisibility();
      const table = document.querySelector("table.sort");
      const head = table.querySelectorAll("thead th")[1];
      const column = () => [...table.tBodies[0].rows].map((r) => parseFloat(r.cells[1].textContent));
      const rising = (values) => values.every((v, i) => !i || values[i - 1] <= v);
      head.querySelector("button").click();
      const up = rising(column()), sort = head.getAttribute("aria-sort");
      head.querySelector("button").click();
      document.title = [open, up, sort, rising(column().reverse()), head.getAttribute("aria-sort")].join(" ");
    """
    assert title(dump_dom(chromium, without_policy(grid, script))) == "true true ascending true descending"


def test_a_first_screen_answers_which_how_certain_and_at_what_cost(grid: Path, chromium: str) -> None:
    script = """
      const at = (selector) => Math.round(document.querySelector(selector).getBoundingClientRect().top);
      document.title = [at(".model dl") < 900, at("svg") < 900, at(".overview tbody tr") < 900].join(" ");
    """
    driven = without_policy(grid, script)
    assert title(dump_dom(chromium, driven, "--window-size=1280,900")) == "true true true"


@pytest.mark.parametrize(
    ("label", "short"),
    [
        ("none", "none"),
        ("shiftdc (alpha=1.0, variant=online)", "shiftdc 1.0 online"),
        ("refusal_direction (adaptive=true)", "refusal_direction adaptive"),
        ("odd (label", "odd (label"),
    ],
)
def test_labels_in_plots_are_short(label: str, short: str) -> None:
    assert brief(label) == short


def test_the_plot_has_a_dot_at_each_pair_of_values_and_a_line_along_the_front(
    grid: Path, board: Path
) -> None:
    for overview in index_of(CELLS.all_of(board), []).overviews:
        found = plot(overview)
        assert found is not None
        dots = {dot.label: dot for dot in found.dots}
        for row in overview.rows:
            assert row.harm is not None
            assert row.over_refusal is not None
            dot = dots[row.defense]
            assert dot.x == pytest.approx(36 + 314 * row.over_refusal.value**0.5, abs=0.06)
            assert dot.y == pytest.approx(222 - 210 * row.harm.value, abs=0.06)
            assert dot.left <= dot.x <= dot.right
            assert dot.low >= dot.y >= dot.high
        assert (dots["refuse_all"].x, dots["refuse_all"].y) == (350, 222)
        assert found.front.count("H") == sum(row.front for row in overview.rows)


def test_reported_numbers_stand_in_their_own_section_and_never_rank() -> None:
    reported = REPORTED.all_of(COMMITTED)
    found = index_of([], reported)
    assert found.comparisons == []
    text = page(found)
    document = "".join(Document(text).text)
    assert document.index("Numbers of papers") < document.index("Understanding and Rectifying")
    assert "69.3" in document
    assert text.count('class="sort"') == 0
    assert len(text.encode()) < MAX_BYTES
