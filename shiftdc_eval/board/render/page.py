"""`index.html`: one static page that needs no server and can be read without JavaScript."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from shiftdc_eval.board.index import Index, Overview
from shiftdc_eval.board.model_kinds import MARKS
from shiftdc_eval.board.render.benchmarks import Benchmark, benchmarks
from shiftdc_eval.board.render.cell_listing import links, listed
from shiftdc_eval.board.render.format import differing, readable
from shiftdc_eval.board.render.judge_notes import judges
from shiftdc_eval.board.render.overview import (
    AWAITED,
    GREY,
    RULE,
    answers,
    fill,
    missing,
    over,
    overview_table,
)
from shiftdc_eval.board.render.plot import Plot, axes, plot
from shiftdc_eval.board.render.tables import Table

MAX_BYTES = 300_000
"""A larger page is rendered again with less detail."""
TOO_LARGE = f"Even so this page is larger than {MAX_BYTES // 1000} kB."
PARTS = ("results by group", "commands", "numbers of papers", "facts of each cell", "results by benchmark")
"""What is left out of a page that gets too large, in order; the overviews stay."""


@dataclass(frozen=True)
class Part:
    """One model, run in one way, as the page shows it."""

    title: str
    mark: str
    note: str
    """What the reader is told of marked models, or the model's own note."""
    overview: Overview
    table: Table
    plot: Plot | None
    answers: list[tuple[str, str, str]]
    """Of each class the lowest defense: (class, name, in words)."""
    over: list[str]
    missing: list[str]
    fill: str
    """The command that measures what is missing."""
    benchmarks: list[Benchmark]


def page(index: Index) -> str:
    """The page, with as much detail as fits; one that fits at no level says so."""
    index = readable(index)
    text = ""
    for count in range(len(PARTS) + 1):
        text = render(index, PARTS[:count])
        if len(text.encode()) < MAX_BYTES:
            return text
    return render(index, PARTS, f" {TOO_LARGE}")


def render(index: Index, left_out: Sequence[str] = (), warning: str = "") -> str:
    """The page without some of `PARTS`."""
    said = f"Omitted here: {', '.join(left_out)}; see leaderboard.md and index.json." if left_out else ""
    text: str = template("page.html.j2").render(
        index=index,
        parts=parts(index),
        awaited=awaited(index),
        rule=RULE,
        grey=GREY,
        judges=judges(index),
        axes=axes(),
        left_out=left_out,
        said=said + warning,
        listed=listed(index),
        links=partial(links, index.cells),
        g="{:g}".format,
        **assets("page"),
    )
    return text


def parts(index: Index) -> list[Part]:
    """The models: real ones first, then small research models, then toys."""
    marks = ["", *MARKS]
    found = sorted(index.overviews, key=lambda one: (marks.index(one.mark), one.model, one.subject))
    return [_part(index, one, [other for other in found if other.model == one.model]) for one in found]


def _part(index: Index, found: Overview, alike: Sequence[Overview]) -> Part:
    facts = [_facts(index, one) for one in alike]
    setting = differing(_facts(index, found), facts)
    first = index.cells[found.rows[0].cells[0]] if found.rows else None
    note = MARKS[found.mark] if found.mark else first.model_note if first else ""
    return Part(
        title=f"{found.model} ({setting})" if setting else found.model,
        mark=found.mark,
        note=note,
        overview=found,
        table=overview_table(found),
        plot=plot(found),
        answers=list(answers(found)),
        over=over(found),
        missing=missing(found),
        fill=fill(index, found),
        benchmarks=benchmarks(index, found),
    )


def _facts(index: Index, found: Overview) -> dict[str, object]:
    cell = next(cell for cell in index.cells if cell.subject == found.subject)
    return {
        "revision": cell.model_revision[:12],
        "dtype": cell.dtype,
        "attention": cell.attention,
        "engine": cell.engine or "transformers",
        "kind": found.mark or "real",
    }


def awaited(index: Index) -> dict[str, str]:
    """The real models that a board without any could have -> the command that measures and adds each."""
    if any(not found.mark for found in index.overviews):
        return {}
    command = "shiftdc-eval grid run paper-tables -o results --only {} && shiftdc-eval board build results"
    return {name: command.format(pattern) for name, pattern in AWAITED.items()}


@cache
def environment() -> Environment:
    """Templates with every value escaped."""
    return Environment(
        loader=FunctionLoader(read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def template(name: str) -> Any:
    """One of the package's templates."""
    return environment().get_template(name)


def read(name: str) -> str:
    """A text file of this package."""
    folder = "viewer" if name.startswith("view.") else "render"
    return (files("shiftdc_eval.board") / folder / name).read_text(encoding="utf-8")


def assets(name: str) -> dict[str, str]:
    """Style and script of a page, and the content security policy that allows only these two."""
    style, script = read("shared.css") + read(f"{name}.css"), read(f"{name}.js")
    return {
        "style": style,
        "script": script,
        "policy": (
            f"default-src 'none'; style-src '{source_hash(style)}'; script-src '{source_hash(script)}'; "
            "img-src 'self' data: file:; base-uri 'none'; form-action 'none'"
        ),
    }


def source_hash(text: str) -> str:
    """Hash of an inline style or script as a content security policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
