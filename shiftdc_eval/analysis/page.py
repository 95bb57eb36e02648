"""The report as a page: every value escaped, no script, plots beside it as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from shiftdc_eval.analysis.plots import NAMES
from shiftdc_eval.board.render.format import clean

HOLDS = {True: "holds", False: "does not hold", None: "cannot be said"}


def _environment() -> Environment:
    found = Environment(
        loader=FunctionLoader(
            lambda name: (files("shiftdc_eval.analysis") / name).read_text(encoding="utf-8")
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finished,
    )
    found.filters["percent"] = lambda value: "–" if value is None else f"{100 * value:.1f}"
    found.filters["number"] = lambda value: "–" if value is None else f"{value:.3g}"
    return found


def _finished(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def render(report: Mapping[str, Any], pictures: Sequence[tuple[str, str]]) -> str:
    """The page of an analysis."""
    text: str = (
        _environment()
        .get_template("page.html.j2")
        .render(report=report, pictures=pictures, names=NAMES, holds=HOLDS, style=_style())
    )
    return text


def render_sample(sample: Mapping[str, Any], picture: str) -> str:
    """The page of one explained sample."""
    text: str = (
        _environment()
        .get_template("sample.html.j2")
        .render(sample=sample, picture=picture, names=NAMES, style=_style())
    )
    return text


def _style() -> str:
    return (files("shiftdc_eval.analysis") / "page.css").read_text(encoding="utf-8")
