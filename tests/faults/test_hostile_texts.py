"""Texts that would steer a terminal or break out of markup, in every place where a text of others can stand.

What is asserted: nothing raw reaches the terminal, and a page or table has the elements and attributes that the same
data with a harmless text gives.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made import Made, write_json, write_rows
from markdown_it import MarkdownIt
from sample_page import whole
from stored_run import row

from shiftdc_eval.board.build import index_of
from shiftdc_eval.board.cell_files import CELLS
from shiftdc_eval.board.ingest.join import join
from shiftdc_eval.cli import main
from shiftdc_eval.core.hashing import text_sha256

HARMLESS = "a harmless text"
TEXTS = {
    "ansi": "\x1b[2J\x1b[31mred",
    "osc": "\x1b]0;title\x07 \x1b]8;;https://bad.example\x07link",
    "c1": "\x9b2J \x9d0;x\x9c",
    "return": "a\rb\x08\x08c\x7f",
    "lines": "a\nb\x0bc\x0cd\x85e\u2028f\u2029g",
    "nul": "a\0b",
    "reversed": "\u202etxet\u202c \u200f\u061c",
    "isolates": "\u2066never closed \u2067 \u2068",
    "undecodable": "\udcff and \udc80",
    "reversed pair": "\udc00\ud800",
    "zero width": "hid\u200bden\u2060\ufeff\u00ad",
    "noncharacter": "\ufffe\uffff\ufdd0\U000e0041",
    "combining": "e" + "\u0301" * 300,
    "script": "<script>HACK()</script>",
    "end of script": "</script></style></title><script>HACK()</script>",
    "image": '<img src=x onerror="HACK()">',
    "attribute": '"><svg onload="HACK()">',
    "single quote": "' onmouseover='HACK()' x='",
    "no quote": " onfocus=HACK() autofocus ",
    "comment": "<!-- --><!--",
    "cdata": "]]><![CDATA[<plaintext>",
    "entity": "&lt;script&gt; &#60;b&#62; &amp",
    "address": "javascript:HACK()",
    "data address": "data:text/html;base64,PHNjcmlwdD4=",
    "style": "}</style><style>*{display:none}",
    "url in style": "x;background:url(https://bad.example/x)",
    "link": "[a](javascript:HACK()) ![a](https://bad.example/x.png)",
    "reference": "[a]: https://bad.example\n\n[a] <https://bad.example>",
    "table": "a | b |\n|---|\n| c",
    "backticks": "``` `code` ~~~\n    code",
    "heading": "\n\n# HACK\n\n- item\n\n---\n",
    "template": "{{ 7 * 191 }}{% raw %}${7*191}#{7*191}<%= 7*191 %>",
    "rich": "[bold red]x[/bold red][link=https://bad.example]x[/link] [/]",
    "format": "%s %n {0} {x!r} %(x)s \\x1b[31m",
    "json": '", "value": "refused", "x": "',
    "long": "word" * 5000,
}
SHORT = {name: text for name, text in TEXTS.items() if len(text) < 400}


class Parsed(HTMLParser):
    """Elements with the names of their attributes, addresses, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.addresses: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag, tuple(sorted(name for name, _ in attrs))] += 1
        self.addresses |= {value or "" for name, value in attrs if name in ("href", "src", "action")}

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.text += f"<!--{data}-->"

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration that nobody wrote: {data}")


def inert(page: str, harmless: str, turned: str = "") -> Parsed:
    """A page that has the elements of the harmless one, and as many of those that matter."""
    found, wanted = Parsed(page), Parsed(harmless)
    assert set(found.elements) <= set(wanted.elements)
    for element, count in wanted.elements.items():
        if element[0] in (
            "script",
            "style",
            "body",
            "main",
            "meta",
            "link",
            "article",
            "form",
            "img",
        ):
            assert found.elements[element] == count, element
    assert not [one for one in found.addresses if one.lower().startswith(("javascript", "data", "http"))]
    assert "1337" not in page  # 7 * 191
    page.encode("utf-8")
    assert not {one for one in page if ord(one) < 32 or one in "\x9b\u202e\u2066"} - {*"\n\t", *turned}
    return found


def tame(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed; nothing in it steers a terminal."""
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert "Traceback" not in text
    assert not {"\r", "\x1b"} & set(printed.out)
    assert "a\rb" not in text
    steering = ("Cc", "Cf", "Cs", "Zl", "Zp")
    # bars of progress go back to the start of their line
    raw = {one for one in text if unicodedata.category(one) in steering} - {"\n", "\r"}
    assert not raw
    text.encode("utf-8")
    return text


# -- rows: what models, benchmarks and judges said

PLACES = (
    "item", "question", "unanswered", "groups", "flags", "reasoning", "verdict", "reason", "judge", "model", "raw",
    "request", "prompt", "response", "scenario", "reference", "input_media",
)  # fmt: skip


def hostile_rows(texts: list[str]) -> list[dict[str, Any]]:
    """One row for each text and place."""
    rows = []
    for number, (text, place) in enumerate((text, place) for text in texts for place in PLACES):
        one = row(number, "Sure. I'm sorry, I can't help with that.")
        field, item = one["shiftdc"], one["shiftdc_item"]
        verdict: dict[str, Any] = {"kind": "refusal", "value": "refused", "reason": "r", "judge": "0" * 64}
        field["verdicts"] = {"a": verdict, "b": {**verdict, "value": "complied"}}
        if place in ("item", "question"):
            field[place] = f"figstep/{number}{text}"
        elif place in item:
            item[place] = text
            if place == "response":
                field["response_sha256"] = text_sha256(text)
        elif place == "groups":
            field["groups"] = {"topic": text, text: "x"}
        elif place in ("flags", "reasoning"):
            field[place] = [text]
        elif place == "unanswered":
            field[place] = text
        elif place == "verdict":
            verdict["value"] = text
        elif place == "judge":
            field["verdicts"][text] = field["verdicts"].pop("b")
        elif place == "input_media":
            one[place] = [text]
        else:
            verdict[place] = text
        rows.append(one)
    return rows


def stored(folder: Path, texts: list[str], task: str = "figstep_tiny") -> Path:
    folder.mkdir(parents=True)
    path = folder / f"20260101_000000_samples_{task}.jsonl"
    write_rows(path, hostile_rows(texts))
    return path


def test_a_page_of_samples_is_inert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = []
    for name, texts in (("plain", [HARMLESS] * len(TEXTS)), ("hostile", list(TEXTS.values()))):
        stored(tmp_path / name, texts)
        page = tmp_path / f"{name}.html"
        assert main(["view", str(tmp_path / name), "-o", str(page), "--images", "link"]) == 0
        pages.append(page.read_bytes().decode("utf-8"))
    tame(capsys)
    inert(pages[1], pages[0], turned="\u202e\u2066")
    found = inert(whole(pages[1]), whole(pages[0]), turned="\u202e\u2066")
    for name in ("script", "image", "attribute", "address", "template", "link", "long"):
        assert found.text.count(TEXTS[name]) >= 8, name
    print(f"view: {len(TEXTS) * len(PLACES)} texts")


def test_judging_them_prints_nothing_raw_and_keeps_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stored(tmp_path / "run", list(TEXTS.values()))
    before = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    command = ["judge", str(tmp_path / "run"), "--judge", "keyword_robust", "--disagreements", "2000"]
    status, said = main(command), tame(capsys)
    assert status == 0, said
    assert said.count("disagree on ") >= len(TEXTS)
    after = [json.loads(line) for line in path.read_bytes().decode("utf-8").split("\n") if line]
    for one in after:
        one["shiftdc"]["verdicts"].pop("keyword_robust")
    assert after == before
    print(f"judge: {len(before)} texts")


# -- records: what a run says about itself

HEADS = ("model_note", "revision", "architecture", "dtype", "attention", "engine", "system_prompt", "command")
HEADS += (
    "git",
    "hardware",
    "notes",
    "settings",
    "versions",
    "extra",
    "dataset",
    "data revision",
    "task notes",
)
REFUSED = ("model", "defense", "task", "judge", "group", "started")


def record(made: Made, text: str, place: str) -> dict[str, Any]:
    """The run record with a text in one place."""
    made_of = made.record().model_dump()
    task = made_of["tasks"][0]
    if place in ("notes", "task notes"):
        (task if place == "task notes" else made_of)["notes"] = [text]
    elif place in ("settings", "versions", "extra", "plugins"):
        made_of[place] = {"x": text, text: "x"}
    elif place in ("dataset", "version"):
        task[place] = text
    elif place == "data revision":
        task["revision"] = text
    elif place == "task":
        task["name"] = text
    elif place not in ("judge", "group"):
        made_of[place] = text
    return made_of


def made_run(folder: Path, number: int, text: str, place: str) -> None:
    """A run of two answers whose record has a text in one place."""
    made = Made(size=2, run=f"r{number}", seed=number, defense="none" if place != "defense" else "ecso")
    samples = made.write(folder)
    write_json(folder / f"run-r{number}.json", record(made, text, place))
    rows = made.rows()
    for one in rows:
        verdicts = one["shiftdc"]["verdicts"]
        verdicts["keyword_robust"]["reason"] = text
        if place == "judge":
            verdicts[text] = verdicts.pop("keyword_robust")
        if place == "group":
            one["shiftdc"]["groups"] = {text: text}
    write_rows(samples, rows)


def test_a_board_of_them_is_inert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every text stands in a place of its own turn, so that all places see all kinds."""
    boards = {}
    # a record with half a surrogate pair is refused
    names = [name for name, text in SHORT.items() if text == text.encode("utf-8", "ignore").decode()]
    for name in ("plain", "hostile"):
        for number, place in enumerate(HEADS * 3):
            text = SHORT[names[number % len(names)]] if name == "hostile" else HARMLESS
            made_run(tmp_path / name, number, text, place)
        boards[name] = tmp_path / f"board-{name}"
        assert main(["board", "build", str(tmp_path / name), "--out", str(boards[name])]) == 0, tame(capsys)
        assert main(["board", "check", str(boards[name])]) == 0, tame(capsys)
        tame(capsys)
    page, plain = ((boards[name] / "index.html").read_bytes().decode() for name in ("hostile", "plain"))
    inert(page, plain)
    text, harmless = (
        MarkdownIt("gfm-like", {"linkify": False}).render(
            (boards[name] / "leaderboard.md").read_bytes().decode("utf-8").partition("## Measured")[2]
        )
        for name in ("hostile", "plain")
    )
    found = inert(text, harmless)
    assert {one.split("/")[0] for one in found.addresses} == {"cells"}
    json.loads((boards["hostile"] / "index.json").read_bytes().decode("utf-8"))
    print(f"board: {3 * len(HEADS)} texts")


def test_what_a_board_does_not_take_is_told_in_plain_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = 0
    for name, text in SHORT.items():
        for place in REFUSED:
            folder = tmp_path / f"{tried}"
            made_run(folder, tried, text, place)
            status = main(["board", "build", str(folder), "--out", str(folder / "board")])
            said = tame(capsys)
            assert status in (0, 2), (name, place, said)
            tried += 1
            if status == 2:
                assert "shiftdc-eval board: " in said, (name, place)
    print(f"refused by a board: {tried} texts")


def test_a_check_tells_of_hostile_cells_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Made(size=2).write(tmp_path / "run")
    board = tmp_path / "board"
    assert main(["board", "build", str(tmp_path / "run"), "--out", str(board)]) == 0
    [cell] = CELLS.paths(board)
    content = json.loads(cell.read_text(encoding="utf-8"))
    tried = 0
    for number, (name, text) in enumerate(SHORT.items()):
        for change in ({text: 1}, {"task": text}, {"record_version": text}, {"cell_version": text}):
            place = cell.parent / f"{number}-{tried}.json"
            write_json(place, content | change)
            tried += 1
        if in_a_name(text):
            (board / text).write_text("")
            (cell.parent / f"{text}.json").write_text(json.dumps({text: 1}))
            tried += 2
        assert name
    capsys.readouterr()
    assert main(["board", "check", str(board)]) == 1
    assert len(tame(capsys).splitlines()) >= tried
    print(f"board check: {tried} texts")


def in_an_argument(text: str) -> bool:
    """A text that a program can be given."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def in_a_name(text: str) -> bool:
    """A text that can be the name of a file."""
    return in_an_argument(text) and "/" not in text and len(os.fsencode(text)) < 200


def test_arguments_paths_and_damaged_rows_are_told_in_plain_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stored(tmp_path / "run", [HARMLESS]).parent
    tried = 0
    for name, text in TEXTS.items():
        damaged = tmp_path / name
        stored(damaged, [HARMLESS])
        [path] = damaged.iterdir()
        lines = path.read_text(encoding="utf-8").split("\n")
        bad = json.loads(lines[0])
        bad["shiftdc"][text] = 1
        bad["shiftdc"]["verdicts"]["a"]["kind"] = text
        path.write_text("\n".join([json.dumps(bad), *lines[1:]]), encoding="utf-8")
        grid = tmp_path / f"{name}.yaml"
        grid.write_text(json.dumps({"models": [{"pretrained": text, text: 1}], "defenses": [text], text: 1}))
        commands = [
            ["judge", str(damaged), "--judge", "keyword_robust"],
            ["view", str(damaged), "-o", "/dev/null/x"],
        ]
        commands += [["judge", str(run), "--judge", text], ["grid", "run", str(grid)]]
        if in_an_argument(text):
            given = str(tmp_path / text)
            commands += [[text], ["judge", given, "--judge", "keyword_robust"], ["view", given, "-o", given]]
            commands += [
                ["board", "build", given, "--out", given],
                ["board", "check", given],
                ["board", text],
            ]
            commands += [
                ["grid", "run", given],
                ["judge", str(run), "--judge", "keyword_robust", "--map", text, text],
            ]
            commands += [["view", str(run), f"--{text}"]]
        for command in commands:
            status = main(command)
            said = tame(capsys)
            assert status in (1, 2), (name, command, said)
            assert said
            tried += 1
    print(f"arguments, paths, damaged rows: {tried} texts")


def test_files_and_tasks_of_hostile_names_are_judged_shown_and_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [text for text in TEXTS.values() if in_a_name(text)]
    for number, text in enumerate(names):
        stored(tmp_path / "run" / f"{number}{text}", [HARMLESS], task=f"x{text}")
        stored(tmp_path / "plain" / f"{number}", [HARMLESS], task=f"x{number}")
    status, said = main(["judge", str(tmp_path / "run"), "--judge", "keyword_robust"]), tame(capsys)
    assert status == 0, said
    assert len(said.splitlines()) >= len(names)
    assert main(["judge", str(tmp_path / "plain"), "--judge", "keyword_robust"]) == 0
    pages = []
    for folder in ("run", "plain"):
        page = tmp_path / f"{folder}.html"
        assert main(["view", str(tmp_path / folder), "-o", str(page)]) == 0
        pages.append(page.read_bytes().decode("utf-8"))
    inert(*map(whole, pages), turned="\u202e\u2066")
    tame(capsys)
    print(f"names of files: {3 * len(names)} texts")


def test_the_table_of_a_grid_is_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from shiftdc_eval.grid.cli import _print_failures, _print_results
    from shiftdc_eval.grid.table import tables

    Made(size=2).write(tmp_path / "run")
    index = index_of(join([tmp_path / "run"], (), False), ())
    [cell] = index.cells
    for text in SHORT.values():
        cells = [cell.model_copy(update={"defense": text, "dtype": text}), cell]
        for made in tables(index.model_copy(update={"cells": cells})):
            Console(width=400).print(made)
        _print_failures({text: text})
    said = tame(capsys)
    assert "[bold red]x[/bold red]" in said
    _print_results([], tmp_path)
    print(f"grid: {3 * len(SHORT)} texts")
