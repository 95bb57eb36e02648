"""`shiftdc-eval defenses`: the defenses with source, status, needs and cost; `defenses NAME`: the settings of one."""

from __future__ import annotations

import argparse

GATE = (
    "gate=hidden_detect beside any of them: defended where its score exceeds gate_threshold, else undefended; "
    "one prefill more"
)
STATUS = (
    "status: code = checked against the authors' code; text = written from the paper; reconstruction = constants of "
    "the paper are open; ours = an ablation; control = no defense, never ranked"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """At most a name."""
    parser.description = __doc__
    parser.add_argument("name", nargs="?", metavar="NAME", help="show the settings of this defense")


def main(args: argparse.Namespace) -> int:
    """Print the table, or one defense.

    Raises:
        ConfigError: an unknown name.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from shiftdc_eval.core.errors import ConfigError
    from shiftdc_eval.defenses import DEFENSES
    from shiftdc_eval.defenses.arguments import known

    console = Console()
    if args.name is not None:
        known(args.name, what="defense")
        defense = DEFENSES[args.name]
        about = {
            "source": defense.source,
            "status": defense.status,
            "installed with": DEFENSES.distribution(args.name),
            "needs": ", ".join(sorted(defense.needs)),
            "extra cost of an answer": defense.extra_cost,
        }
        for title, text in about.items():
            if text:
                console.print(f"{title}: {text}", markup=False, highlight=False)
        table = Table("setting", "default", "meaning", box=box.SIMPLE, pad_edge=False)
        for field, info in defense.model_fields.items():
            table.add_row(field, str(info.default), " ".join((info.description or "").split()))
        console.print(table)
        return 0
    table = Table(
        title="Defenses (defense=NAME in --model_args; settings: shiftdc-eval defenses NAME)",
        box=box.SIMPLE,
        pad_edge=False,
        caption=f"{STATUS}\n{GATE}",
        caption_justify="left",
    )
    for column in ("name", "status"):
        table.add_column(column, no_wrap=True)
    for column in ("needs besides answers", "extra cost of an answer", "source"):
        table.add_column(column, overflow="fold")
    for name in DEFENSES:
        try:
            defense = DEFENSES[name]
        except ConfigError as error:
            table.add_row(name, "", "", "", str(error))
            continue
        source = "\n".join(filter(None, (defense.source, DEFENSES.distribution(name))))
        needs = ", ".join(sorted(defense.needs - {"generate"})) or "-"
        table.add_row(name, defense.status or "-", needs, defense.extra_cost, source)
    console.print(table)
    return 0
