"""`shiftdc-eval defenses`: what there is, where it comes from, what it costs, what can be set."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """What a reader should know of a defense before running it."""

    source: str
    """Paper or repository."""
    passes: str
    """What an answer costs beyond the undefended one."""


FACTS: dict[str, Facts] = {
    "none": Facts("the backbone alone (Direct in arXiv 2502.13095)", "-"),
    "shiftdc": Facts(
        "arXiv 2502.13095; Renovamen/ShiftDC df91f41",
        "caption, text-only prefill (paper, official: +1 image prefill)",
    ),
    "random": Facts("control: ShiftDC along a random direction", "as shiftdc"),
    "ecso": Facts(
        "arXiv 2403.09572; gyhdog99/ECSO 3878522", "self-check; when it says yes: caption and a second answer"
    ),
    "ecso_caption": Facts(
        "as compared with in arXiv 2502.13095", "caption (the answer itself needs no image)"
    ),
    "adashield_s": Facts("arXiv 2403.09513; SaFoLab-WISC/AdaShield 305df573", "a longer prompt"),
    "cmrm": Facts("arXiv 2410.09047", "two image prefills"),
    "coca": Facts("arXiv 2409.11365", "a second decoding run alongside"),
    "refusal_direction": Facts("arXiv 2406.11717; adaptive rule arXiv 2411.16721", "-"),
}
"""One entry a defense; a test compares the names with the registry."""


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""
    parser.description = __doc__


def main(_args: argparse.Namespace) -> int:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    from shiftdc_eval.defenses import DEFENSES

    table = Table(title="Defenses (defense=NAME in --model_args)", show_lines=True)
    for column in ("name", "source", "extra cost of an answer", "settings (default)"):
        table.add_column(column, overflow="fold")
    for name, facts in FACTS.items():
        fields = DEFENSES[name].model_fields
        settings = ", ".join(f"{field}={info.default}" for field, info in fields.items()) or "-"
        table.add_row(name, facts.source, facts.passes, settings)
    Console().print(table)
    return 0
