"""`shiftdc-eval convert KIND SRC DST`: converts a model published in its own layout to transformers' layout."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from shiftdc_eval.core.terminal import say

if TYPE_CHECKING:
    from shiftdc_eval.backbones.convert.checkpoint import Report

KINDS = {
    "llava": "LLaVA-1.5 type checkpoints in the original layout (LLaVA-1.5, ShareGPT4V)",
    "minigpt4": "MiniGPT-4 from BLIP-2, Vicuna v0 and the published linear layer",
    "qwen-vl": "Qwen-VL and Qwen-VL-Chat from their published layout",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.description = __doc__
    kinds = parser.add_subparsers(dest="kind", required=True, metavar=" | ".join(KINDS))
    made = {name: kinds.add_parser(name, help=text, description=text) for name, text in KINDS.items()}
    sources = {
        "llava": "folder or hub id of the original checkpoint",
        "minigpt4": "the published MiniGPT-4 checkpoint, a .pth file with the linear layer",
        "qwen-vl": "folder or hub id of the published checkpoint",
    }
    for name, kind in made.items():
        kind.add_argument("source", metavar="SRC", help=sources[name])
        kind.add_argument("destination", metavar="DST", type=Path, help="folder to write; must not exist")
    made["llava"].add_argument(
        "--vision-tower",
        help="folder or hub id of the vision tower; the one that config.json names if left out",
    )
    made["minigpt4"].add_argument("--vicuna", required=True, help="folder or hub id of Vicuna v0")
    made["minigpt4"].add_argument(
        "--blip2",
        default="Salesforce/blip2-flan-t5-xxl",
        help="folder or hub id of BLIP-2 in transformers' layout (%(default)s)",
    )


def main(args: argparse.Namespace) -> int:
    """Convert and report the outcome for every key."""
    from shiftdc_eval.backbones.convert.checkpoint import REPORT, into_folder

    report = into_folder(args.destination, _writer(args))
    say(f"{args.destination}: {report.used} published tensors became {len(report.written)}")
    for reason, count in Counter(report.unused.values()).items():
        say(f"unused: {count} ({reason})")
    for note in report.notes:
        say(f"note: {note}")
    say(f"every key is listed in {args.destination / REPORT}")
    return 0


def _writer(args: argparse.Namespace) -> Callable[[Path], Report]:
    if args.kind == "minigpt4":
        from shiftdc_eval.backbones.convert.minigpt4 import convert_minigpt4

        return lambda part: convert_minigpt4(args.source, part, vicuna=args.vicuna, blip2=args.blip2)
    if args.kind == "qwen-vl":
        from shiftdc_eval.backbones.convert.qwen_vl import convert_qwen_vl

        return lambda part: convert_qwen_vl(args.source, part)
    from shiftdc_eval.backbones.convert.llava import convert_llava

    return lambda part: convert_llava(args.source, part, vision_tower=args.vision_tower)
