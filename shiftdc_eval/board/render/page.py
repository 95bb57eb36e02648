"""`index.html`: one static page that needs no server and can be read without JavaScript."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from shiftdc_eval.board.index import Index, lower_is_better
from shiftdc_eval.board.model_kinds import MARKS
from shiftdc_eval.board.render import charts
from shiftdc_eval.board.render import format as wording
from shiftdc_eval.board.render.cell_listing import links, listed
from shiftdc_eval.board.render.sections import Section, sections_of
from shiftdc_eval.board.render.text import readable

MAX_BYTES = 300_000
"""A larger page is written again with less detail."""
TOO_LARGE = f"Even so this page is larger than {MAX_BYTES // 1000} kB."


@dataclass(frozen=True)
class Detail:
    """How much the page shows; everything is in `index.json` and the cells in any case."""

    groups: bool = True
    """Results by topic or scenario."""
    every_judge: bool = True
    """Plots for every judge of a task; else for its first one alone."""
    charts: int = 1000
    """Sections with plots."""
    commands: bool = True
    """Commands on the page, not only in the cells."""
    rows: int = 1000
    """Rows a section; below all of them, only the cells of these rows are listed."""
    said: str = ""
    """What the reader is told about it."""


NO_PLOTS = Detail(
    groups=False, charts=0, said="Results by group and all plots are left out; index.json holds the groups."
)
NO_COMMANDS = replace(
    NO_PLOTS,
    commands=False,
    said="Results by group, plots and commands are left out; see index.json and the cells.",
)
LEVELS = (
    Detail(),
    Detail(groups=False, said="Results by group are left to index.json."),
    Detail(
        groups=False,
        every_judge=False,
        said="Results by group are left to index.json; plots are drawn for the first judge of each task.",
    ),
    *(
        Detail(
            groups=False,
            every_judge=False,
            charts=charts,
            said=f"Results by group are left to index.json; plots are drawn for the first {charts} tasks, by the first "
            "judge of each.",
        )
        for charts in (10, 5, 2)
    ),
    NO_PLOTS,
    NO_COMMANDS,
    *(
        replace(
            NO_COMMANDS,
            rows=rows,
            said=f"Only the first {rows} rows of each section are shown, and their cells, without plots and commands; "
            "leaderboard.md holds all rows, index.json all cells.",
        )
        for rows in (80, 25, 10, 5)
    ),
    replace(
        NO_COMMANDS,
        rows=1,
        said="Only the first row of each section is shown, and its cell; leaderboard.md holds all rows, index.json "
        "all cells.",
    ),
)
"""From all to the least; the page has the first that fits."""


def page(index: Index) -> str:
    """The page, with as much detail as fits; one that fits with none says so."""
    index = readable(index)
    for detail in LEVELS:
        text = render(index, detail)
        if len(text.encode()) < MAX_BYTES:
            return text
    return render(index, replace(LEVELS[-1], said=f"{LEVELS[-1].said} {TOO_LARGE}"))


def render(index: Index, detail: Detail) -> str:
    """The page with a given amount of detail."""
    found = sections_of(index)
    models = sorted({cell.model for cell in index.cells})
    shown = {number for section in found for line in section.lines[: detail.rows] for number in line.numbers}
    text: str = template("page.html.j2").render(
        index=index,
        sections=found,
        contents=contents(found),
        models=models,
        tasks=sorted({section.task for section in found}),
        judges=sorted({section.judge for section in found}),
        detail=detail,
        listed=listed(index, shown),
        links=partial(links, index.cells),
        plotted=plotted(found, detail),
        forest=charts.forest,
        scatter=charts.scatter,
        about=about,
        group_tables=group_tables,
        s=wording,
        g="{:g}".format,
        **assets("page"),
    )
    return text


def contents(sections: Sequence[Section]) -> dict[str, list[tuple[int, str]]]:
    """Number and name of each section, counted from 1, by task."""
    found: dict[str, dict[int, Section]] = defaultdict(dict)
    for number, section in enumerate(sections, 1):
        found[section.task][number] = section
    return {task: list(zip(own, _names(list(own.values())), strict=True)) for task, own in found.items()}


def _names(sections: Sequence[Section]) -> list[str]:
    """Sections of one task by judge, with as few other facts as tell them apart."""
    facts = [_telling(section) for section in sections]
    chosen = [0]
    for part in range(1, len(facts[0])):
        told, more = ({tuple(own[n] for n in parts) for own in facts} for parts in (chosen, [*chosen, part]))
        if len(more) > len(told):
            chosen.append(part)
    named = [[own[part] for part in chosen if own[part]] for own in facts]
    return [f"{judge} ({', '.join(rest)})" if rest else judge for judge, *rest in named]


def _telling(section: Section) -> tuple[str, ...]:
    """What can tell a section from the others of its task, what says most to a reader first."""
    judge, _, fingerprint = section.judge.partition("@")
    version, metric = f"v{section.version.removeprefix('v')}", wording.METRIC_NAMES[section.metric]
    return (judge, section.mark, version, metric, fingerprint, charts.shorten(section.revision, 12))


def plotted(sections: Sequence[Section], detail: Detail) -> set[int]:
    """Numbers of the sections with plots, counted from 1; of a task's judges the first is drawn first."""
    first: dict[tuple[str, ...], int] = {}
    for number, section in enumerate(sections, 1):
        first.setdefault((section.mark, section.task, section.version, section.revision), number)
    numbers = range(1, len(sections) + 1) if detail.every_judge else sorted(first.values())
    return set(numbers[: detail.charts])


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
    """Style and script of a page, and the policy that allows these two and nothing else."""
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
    """What a reader must know of a section, in sentences."""
    said = [MARKS[section.mark]] if section.mark else []
    said.append("Lower is better." if lower_is_better(section.metric) else "Higher is better.")
    if section.metric == "keyword_asr":
        said.append("One minus the refusal rate: not a rate of harmful answers.")
    if section.remark:
        said.append(section.remark)
    if section.revision:
        said.append(f"Data revision {charts.shorten(section.revision, 40)}.")
    cells = [line.cell for line in section.lines]
    notes = {(cell.model, cell.model_note) for cell in cells if cell.model_note and not cell.mark}
    said += [f"{model}: {note.removesuffix('.')}." for model, note in sorted(notes)]
    return [*said, *section.judged]


def group_tables(section: Section) -> list[tuple[str, list[str], list[tuple[str, str, list[str]]]]]:
    """Results by group: (kind of group, its names, rows of (model, defense, values))."""
    kinds = sorted({kind for line in section.lines for kind in line.measure.groups})
    tables = []
    for kind in kinds:
        names = sorted({name for line in section.lines for name in line.measure.groups.get(kind, {})})
        if len(names) > 20:
            continue
        rows = []
        for line in section.lines:
            parts = line.measure.groups.get(kind, {})
            values = [
                wording.show(parts[name].value, section.metric) if name in parts else "–" for name in names
            ]
            rows.append((line.cell.model, line.cell.defense, values))
        tables.append((kind, names, rows))
    return tables
