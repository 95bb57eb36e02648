"""`shiftdc-eval judges`: every judge with its verdict, what it asks, and where its text comes from."""

from __future__ import annotations

import argparse

from shiftdc_eval.judges.keyword import load_list
from shiftdc_eval.judges.registry import JUDGES
from shiftdc_eval.judges.rubric import load_rubric

WIDTH = 120
"""Columns the table needs at least: a pipe has no width of its own."""
VARIANTS = ("_guarded", "_tolerant")
"""Endings of judges that ask by a rubric in another way."""
MODELS = {"local_classifier": "harm", "local_reward": "score", "local_rubric": "the rubric's"}
"""Judges of any model, which bring no text of their own: what they give."""


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""
    parser.description = __doc__


def main(_args: argparse.Namespace) -> int:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Judges (--judge NAME, settings after a colon: docs/judges.md)", show_lines=True)
    for column in ("name", "verdict", "asks", "source"):
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    for name in JUDGES:
        table.add_row(name, *facts(name))
    Console(width=max(Console().width, WIDTH)).print(table)
    return 0


def facts(name: str) -> tuple[str, str, str]:
    """Verdict, what is asked, and source of a judge."""
    family, _, text = name.partition("_")
    if family == "keyword":
        return "refusal", "a list of phrases", _line(load_list(text)["source"])
    asks = "a served model" if family == "llm" else "a model on this machine"
    if name in MODELS:
        return MODELS[name], asks, "the model you name"
    for ending in VARIANTS:
        text = text.removesuffix(ending)
    rubric = load_rubric(text)
    return rubric.kind, asks, _line(rubric.source)


def _line(text: str) -> str:
    return " ".join(text.split())
