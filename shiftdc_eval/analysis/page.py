"""The report as a page: every value escaped, no script, plots beside it as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from shiftdc_eval.analysis.plots import NAMES
from shiftdc_eval.board.render.format import clean
from shiftdc_eval.board.render.page import environment

HOLDS = {True: "holds", False: "does not hold", None: "cannot be said"}


@cache
def _environment() -> Environment:
    def finished(value: Any) -> Any:
        return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    found = environment().overlay(loader=PackageLoader("shiftdc_eval.analysis", ""), finalize=finished)
    found.filters |= {
        "percent": lambda value: "–" if value is None else f"{100 * value:.1f}",
        "number": lambda value: "–" if value is None else f"{value:.3g}",
    }
    return found


def _render(template: str, **values: Any) -> str:
    style = (files("shiftdc_eval.analysis") / "page.css").read_text(encoding="utf-8")
    text: str = _environment().get_template(template).render(names=NAMES, style=style, **values)
    return text


def render(report: Mapping[str, Any], pictures: Sequence[tuple[str, str]]) -> str:
    """The page of an analysis."""
    return _render("page.html.j2", report=report, pictures=pictures, holds=HOLDS)


def render_sample(sample: Mapping[str, Any], picture: str) -> str:
    """The page of one explained sample."""
    return _render("sample.html.j2", sample=sample, picture=picture)
