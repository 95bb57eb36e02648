"""`shiftdc-eval defenses`: the defenses by status, with paper and cost; `defenses NAME`: one with its settings."""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill

from shiftdc_eval.core.terminal import say
from shiftdc_eval.defenses.registry import BUILT_IN, DEFENSES

ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")
GROUPS = {
    "": "",
    "code": "checked against the authors' code",
    "text": "written from the paper's text",
    "reconstruction": "reconstructions: constants of the paper are open",
    "ours": "ablations of ours",
    "control": "controls: no defenses, never ranked",
    "installed": "from other installed packages",
}
"""Status -> heading."""
GATE = (
    "gate=hidden_detect beside any of them: defended where its score exceeds gate_threshold, else undefended; "
    "one prefill more"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """At most a name."""
    parser.description = __doc__
    parser.add_argument("name", nargs="?", metavar="NAME", help="show the settings of this defense")


def main(args: argparse.Namespace) -> int:
    """Print the list, or one defense.

    Raises:
        ConfigError: an unknown name.
    """
    if args.name is not None:
        return _one(args.name)
    for line in lines(get_terminal_size().columns):
        say(line, keep="\n")
    return 0


def lines(width: int) -> Iterator[str]:
    """The list, wrapped to a width. No defense is imported."""
    groups: dict[str, list[tuple[str, str, str]]] = {status: [] for status in GROUPS}
    for name in DEFENSES:
        refused = DEFENSES.refused(name)
        if refused or name not in BUILT_IN:
            groups["installed"].append((name, "", refused or DEFENSES.distribution(name)))
            continue
        facts = declared(name)
        paper = ARXIV.search(facts["source"])
        row = name, paper[1] if paper else "", facts.get("extra_cost", "-")
        groups[facts.get("status", "")].append(row)
    yield f"  {'defense=NAME':<17}  {'arXiv':<10}  extra cost of an answer"
    for status, rows in groups.items():
        if rows and status:
            yield f"{GROUPS[status]}:"
        for name, arxiv, cost in rows:
            yield fill(
                f"  {name:<17}  {arxiv:<10}  {cost}", width, subsequent_indent=" " * min(33, width // 2)
            )
    yield ""
    yield fill(GATE, width)
    yield "source, needs and settings of one: shiftdc-eval defenses NAME"


def declared(name: str) -> dict[str, str]:
    """The texts that the class of one of our defenses declares, by attribute, read without its import (3 s)."""
    module, _, found = BUILT_IN[name].partition(".")
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == found)
    texts = {}
    for node in body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            texts[target.id] = value.value
    return texts


def _one(name: str) -> int:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from shiftdc_eval.defenses.arguments import known

    known(name, what="defense")
    defense = DEFENSES[name]
    about = {
        "source": defense.source,
        "status": defense.status and f"{defense.status} ({GROUPS[defense.status]})",
        "installed with": DEFENSES.distribution(name),
        "needs": ", ".join(sorted(defense.needs)),
        "extra cost of an answer": defense.extra_cost,
    }
    for title, text in about.items():
        if text:
            say(f"{title}: {text}")
    table = Table("setting", "default", "meaning", box=box.SIMPLE, pad_edge=False)
    for field, info in defense.model_fields.items():
        table.add_row(field, str(info.default), " ".join((info.description or "").split()))
    Console().print(table)
    return 0
