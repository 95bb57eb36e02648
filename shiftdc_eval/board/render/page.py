"""`index.html`: one static page that needs no server and can be read without JavaScript."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from shiftdc_eval.board.index import Index, lower_is_better
from shiftdc_eval.board.model_kinds import MARKS
from shiftdc_eval.board.render import charts
from shiftdc_eval.board.render.cell_listing import links, listed
from shiftdc_eval.board.render.columns import Column, columns_of, grouped, legend
from shiftdc_eval.board.render.format import METRIC_NAMES, readable, shorten, show
from shiftdc_eval.board.render.sections import Section, sections_of

MAX_BYTES = 300_000
"""A larger page is rendered again with less detail."""
TOO_LARGE = f"Even so this page is larger than {MAX_BYTES // 1000} kB."
ALL = 1_000_000


@dataclass(frozen=True)
class Detail:
    """What the page leaves out; `index.json` and the cells hold everything in any case."""

    left_out: tuple[str, ...] = ()
    rows: int = ALL
    """Rows of a section; only the cells of these rows are listed."""

    @property
    def said(self) -> str:
        """The sentence that tells the reader."""
        parts = list(self.left_out)
        if self.rows < ALL:
            parts.append(f"rows beyond the first {self.rows} of each section")
        return f"Omitted here: {', '.join(parts)}; see leaderboard.md and index.json." if parts else ""


PARTS = ("results by group", "plots", "commands")
"""Parts in the order in which they are left out."""
LEVELS = (*(Detail(PARTS[:count]) for count in range(4)), *(Detail(PARTS, rows) for rows in (25, 5, 1)))
"""From everything to the least; the page has the first level that fits."""


def page(index: Index) -> str:
    """The page, with as much detail as fits; one that fits at no level says so."""
    index = readable(index)
    for detail in LEVELS:
        text = render(index, detail)
        if len(text.encode()) < MAX_BYTES:
            return text
    return render(index, LEVELS[-1], f" {TOO_LARGE}")


def render(index: Index, detail: Detail, warning: str = "") -> str:
    """The page with a given amount of detail."""
    found = sections_of(index)
    models = sorted({cell.model for cell in index.cells})
    shown = {number for section in found for line in section.lines[: detail.rows] for number in line.numbers}
    text: str = template("page.html.j2").render(
        index=index,
        sections=found,
        columns=page_columns,
        legend=legend(found),
        contents=contents(found),
        models=models,
        tasks=sorted({section.task for section in found}),
        judges=sorted({section.judge for section in found}),
        left_out=detail.left_out,
        rows=detail.rows,
        said=detail.said + warning,
        listed=listed(index, shown),
        links=partial(links, index.cells),
        forest=charts.forest,
        scatter=charts.scatter,
        about=about,
        group_tables=group_tables,
        g="{:g}".format,
        **assets("page"),
    )
    return text


def page_columns(section: Section) -> list[tuple[Column, list[Column]]]:
    """The columns of a section's table, each with those shown inside it."""
    columns = [
        column
        for column in columns_of(section)
        if not column.optional or any(column.value(line) is not None for line in section.lines)
    ]
    return grouped(columns, "page")


def contents(sections: Sequence[Section]) -> dict[str, list[tuple[int, str]]]:
    """Number and name of each section, counted from 1, by task."""
    found: dict[str, dict[int, Section]] = defaultdict(dict)
    for number, section in enumerate(sections, 1):
        found[section.title][number] = section
    return {task: list(zip(own, _names(list(own.values())), strict=True)) for task, own in found.items()}


def _names(sections: Sequence[Section]) -> list[str]:
    """Names of the sections of one task: the judge, and as few other facts as distinguish them."""
    facts = []
    for section in sections:
        judge, _, fingerprint = section.judge.partition("@")
        version, metric = f"v{section.version.removeprefix('v')}", METRIC_NAMES[section.metric]
        facts.append((judge, section.mark, version, metric, fingerprint, shorten(section.revision, 12)))
    chosen = [0]
    for part in range(1, len(facts[0])):
        told, more = ({tuple(own[n] for n in parts) for own in facts} for parts in (chosen, [*chosen, part]))
        if len(more) > len(told):
            chosen.append(part)
    named = [[own[part] for part in chosen if own[part]] for own in facts]
    return [f"{judge} ({', '.join(rest)})" if rest else judge for judge, *rest in named]


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


def about(section: Section) -> list[str]:
    """What a reader must know about a section, in sentences."""
    said = [MARKS[section.mark]] if section.mark else []
    said.append("Lower is better." if lower_is_better(section.metric) else "Higher is better.")
    if section.metric == "keyword_asr":
        said.append("One minus the refusal rate: not a rate of harmful answers.")
    if section.remark:
        said.append(section.remark)
    if section.revision:
        said.append(f"Data revision {shorten(section.revision, 40)}.")
    cells = [line.cell for line in section.lines]
    notes = {(cell.model, cell.model_note) for cell in cells if cell.model_note and not cell.mark}
    said += [f"{model}: {note.removesuffix('.')}." for model, note in sorted(notes)]
    return [*said, *section.judged]


def group_tables(section: Section) -> list[tuple[str, list[str], list[tuple[str, str, list[str]]]]]:
    """Results by group: (kind of group, its names, rows of (model, defense, values))."""
    tables = []
    for kind in sorted({kind for line in section.lines for kind in line.measure.groups}):
        groups = [line.measure.groups.get(kind, {}) for line in section.lines]
        names = sorted({name for own in groups for name in own})
        if len(names) > 20:
            continue
        rows = []
        for line, own in zip(section.lines, groups, strict=True):
            values = [show(own[name].value if name in own else None, section.metric) for name in names]
            rows.append((line.cell.model, line.cell.defense, values))
        tables.append((kind, names, rows))
    return tables
