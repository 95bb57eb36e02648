"""`shiftdc-eval convert KIND SRC DST`: write a model that is published in a layout of its own for transformers."""

from __future__ import annotations

import argparse
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.description = __doc__
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="llava")
    text = "LLaVA-1.5 type checkpoints in the original layout (LLaVA-1.5, ShareGPT4V)"
    llava = kinds.add_parser("llava", help=text, description=text)
    llava.add_argument("source", metavar="SRC", help="folder or hub id of the original checkpoint")
    llava.add_argument("destination", metavar="DST", type=Path, help="folder to write; must not exist")
    llava.add_argument(
        "--vision-tower",
        help="folder or hub id of the vision tower; the one that config.json names if left out",
    )


def main(args: argparse.Namespace) -> int:
    """Convert and say what became of every key."""
    from shiftdc_eval.convert.checkpoint import REPORT, into_folder
    from shiftdc_eval.convert.llava import convert_llava

    report = into_folder(
        args.destination, lambda part: convert_llava(args.source, part, vision_tower=args.vision_tower)
    )
    print(f"{args.destination}: {report.used} published tensors became {len(report.written)}")
    reasons: dict[str, int] = {}
    for reason in report.unused.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    for reason, count in reasons.items():
        print(f"unused: {count} ({reason})")
    for note in report.notes:
        print(f"note: {note}")
    print(f"every key is listed in {args.destination / REPORT}")
    return 0
