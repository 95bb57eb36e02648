"""`shiftdc-eval defenses`: lists the defenses with source, cost and settings."""

from __future__ import annotations

import argparse

GATE = (
    "gate=hidden_detect beside any of them: defended where its score exceeds gate_threshold, else undefended; "
    "one prefill more"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """No arguments."""
    parser.description = __doc__


def main(_args: argparse.Namespace) -> int:
    """Print the table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from shiftdc_eval.core.errors import ConfigError
    from shiftdc_eval.defenses import DEFENSES

    table = Table(
        title="Defenses (defense=NAME in --model_args)", box=box.SIMPLE, pad_edge=False, caption=GATE
    )
    table.add_column("name", no_wrap=True)
    for column in ("source", "extra cost of an answer"):
        table.add_column(column, overflow="fold")
    table.add_column("settings (default)", overflow="fold", max_width=28)
    for name in DEFENSES:
        try:
            defense = DEFENSES[name]
        except ConfigError as error:
            table.add_row(name, str(error))
            continue
        fields = defense.model_fields
        settings = "\n".join(f"{field}={info.default}" for field, info in fields.items()) or "-"
        source = "\n".join(filter(None, (defense.source, DEFENSES.distribution(name))))
        table.add_row(name, source, defense.extra_cost, settings)
    Console().print(table)
    return 0
