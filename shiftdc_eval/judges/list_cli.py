"""`shiftdc-eval judges`: every judge with its verdict, what it asks, and where its text comes from."""

from __future__ import annotations

import argparse

from shiftdc_eval.core.entry_points import clash, distribution, installed
from shiftdc_eval.judges.installed import GROUP
from shiftdc_eval.judges.keyword import load_list
from shiftdc_eval.judges.registry import JUDGES
from shiftdc_eval.judges.rubric import FOLDER, IMAGES, load_rubric

VARIANTS = ("_guarded", "_tolerant")
"""Endings of judges that ask by a rubric in another way."""
OPEN = {
    "keyword": ("refusal", "a list of phrases", "the file you name (list=FILE.yaml)"),
    "llm": ("the rubric's", "a served model", "the file you name (rubric=FILE.yaml)"),
    "local_classifier": ("harm", "a model on this machine", "the model you name"),
    "local_reward": ("score", "a model on this machine", "the model you name"),
    "local_rubric": ("the rubric's", "a model on this machine", "the rubric and model you name"),
}
"""Judges that bring no text of their own -> verdict, what is asked, source."""


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""
    parser.description = __doc__


def main(_args: argparse.Namespace) -> int:
    """Print the table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = "Judges (--judge NAME, settings after a colon: docs/judges.md)"
    table = Table(title=title, box=box.SIMPLE, pad_edge=False)
    for column in ("name", "verdict", "asks", "source"):
        table.add_column(column, no_wrap=column == "name", overflow="fold")
    for name in JUDGES:
        table.add_row(name, *facts(name))
    for name, entries in installed(GROUP).items():
        refused = clash(f"judge {name!r}", entries, taken=name in JUDGES)
        # nothing of a package is imported for a table
        source = f"refused: {refused}" if refused else distribution(entries[0])
        table.add_row(name, "its own", "an installed package", source)
    Console().print(table)
    return 0


def facts(name: str) -> tuple[str, str, str]:
    """Verdict, what is asked, and source of a judge of this package."""
    if name in OPEN:
        return OPEN[name]
    family, _, text = name.partition("_")
    if family == "keyword":
        found = load_list(text)
        asks = "rules" if found["match"] == "rules" else "a list of phrases"
        return "refusal", asks, _line(found["source"])
    for ending in VARIANTS:
        text = text.removesuffix(ending)
    rubric = load_rubric(text, IMAGES if (IMAGES / f"{text}.yaml").is_file() else FOLDER)
    return (
        rubric.kind,
        "a served model" if family == "llm" else "a model on this machine",
        _line(rubric.source),
    )


def _line(text: str) -> str:
    return " ".join(text.split())
