"""`index.html`: one static page that needs no server and can be read without JavaScript."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from shiftdc_eval.board import charts, wording
from shiftdc_eval.board.index import Index, IndexCell, lower_is_better
from shiftdc_eval.board.judging import usd
from shiftdc_eval.board.marks import MARKS
from shiftdc_eval.board.sections import Section, sections_of
from shiftdc_eval.board.text import readable

MAX_BYTES = 300_000
"""A larger page is written again with less detail."""
TOO_LARGE = f"Even so this page is larger than {MAX_BYTES // 1000} kB."


@dataclass(frozen=True)
class Detail:
    """How much the page shows; everything is in `index.json` and the cells in any case."""

    groups: bool = True
    """Results by topic or scenario."""
    charts: int = 100
    """Sections with plots."""
    commands: bool = True
    """Commands on the page, not only in the cells."""
    rows: int = 1000
    """Rows a section; below all of them, only the cells of these rows are listed."""
    said: str = ""
    """What the reader is told about it."""


LEVELS = (
    Detail(),
    Detail(groups=False, said="Results by group are left to index.json."),
    Detail(
        groups=False,
        charts=12,
        said="Results by group and the plots of later sections are left out; see index.json.",
    ),
    Detail(groups=False, charts=3, said="Results by group and most plots are left out; see index.json."),
    Detail(
        groups=False,
        charts=1,
        commands=False,
        said="Results by group, most plots and the commands are left out; see index.json and the cells.",
    ),
    Detail(
        groups=False,
        charts=0,
        commands=False,
        rows=80,
        said="Only the first 80 rows of each section are shown, and their cells; leaderboard.md holds all.",
    ),
    Detail(
        groups=False,
        charts=0,
        commands=False,
        rows=25,
        said="Only the first 25 rows of each section are shown, and their cells; leaderboard.md holds all.",
    ),
    Detail(
        groups=False,
        charts=0,
        commands=False,
        rows=5,
        said="Only the first 5 rows of each section are shown, and their cells; leaderboard.md holds all.",
    ),
    Detail(
        groups=False,
        charts=0,
        commands=False,
        rows=1,
        said="Only the first row of each section is shown, and its cell; leaderboard.md holds all.",
    ),
)


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
    text: str = template("page.html.j2").render(
        index=index,
        sections=found,
        models=models,
        model_numbers={model: number for number, model in enumerate(models)},
        tasks=sorted({section.task for section in found}),
        judges=sorted({section.judge for section in found}),
        detail=detail,
        shown={
            number for section in found for line in section.lines[: detail.rows] for number in line.numbers
        },
        forest=charts.forest,
        scatter=charts.scatter,
        about=about,
        cell_notes=cell_notes,
        group_tables=group_tables,
        s=wording,
        **assets("page"),
    )
    return text


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
    return (files("shiftdc_eval.board") / name).read_text(encoding="utf-8")


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
    if section.revision:
        said.append(f"Data revision {charts.shorten(section.revision, 40)}.")
    return [*said, *section.judged]


def cell_notes(cell: IndexCell) -> str:
    """What a cell says of itself beside its numbers."""
    parts = [f"revision {cell.model_revision[:12]}" if cell.model_revision else "revision unknown"]
    parts.append(cell.dtype or "dtype unknown")
    if cell.attention:
        parts.append(f"{cell.attention} attention")
    if cell.engine:
        parts.append(f"{cell.engine} engine")
    if cell.batch_sizes:
        parts.append(f"batches of {' and '.join(map(str, cell.batch_sizes))}")
    if cell.seconds is not None:
        parts.append(f"{cell.seconds:g} s an answer on {cell.hardware or 'unknown hardware'}")
    if cell.tokens is not None:
        parts.append(f"{cell.tokens[0]:g} prompt and {cell.tokens[1]:g} generated tokens an answer")
    if cell.price is not None:
        parts.append(f"{cell.price:g} USD")
    parts += [
        f"judged by {measure.judge} for {usd(measure.cost.price)}"
        for measure in cell.measures
        if measure.cost is not None and measure.cost.tokens_in != 0
    ]
    if cell.model_note:
        parts.append(cell.model_note)
    if cell.settings:
        said = (f"{name}={json.dumps(value)}" for name, value in sorted(cell.settings.items()))
        parts.append(f"settings {', '.join(said)}")
    if cell.ablation:
        parts.append(cell.ablation)
    if not cell.recorded:
        parts.append("no run record")
    return "; ".join([*parts, *cell.notes])


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
