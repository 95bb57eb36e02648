"""`shiftdc-eval direction fit | show`: make a safety direction, or see how well it separates."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shiftdc_eval.core import model_options
from shiftdc_eval.core.terminal import say

if TYPE_CHECKING:
    from shiftdc_eval.backbones import Backbone
    from shiftdc_eval.defenses.contrast import ContrastSet
    from shiftdc_eval.defenses.directions import LayerSeparation


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.description = __doc__
    actions = parser.add_subparsers(dest="action", required=True, metavar="fit | show")
    for name, text in (
        ("fit", "fit a direction and write it"),
        ("show", "print and plot separation per layer"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("--pretrained", required=True, help="hub id, folder or bundled model (toy)")
        model_options.add_options(action)
        action.add_argument(
            "--contrast", type=Path, help="contrast set (JSONL); the built-in one when left out"
        )
        action.add_argument("--batch-size", type=int, default=8, help="texts a forward pass")
        if name == "fit":
            action.add_argument("-o", "--out", type=Path, required=True, help="safetensors file to write")
        else:
            action.add_argument("--direction", type=Path, help="file made by fit; fitted when left out")
            action.add_argument("--plot", type=Path, help="image file to write (svg, png or pdf)")


def main(args: argparse.Namespace) -> int:
    """Fit and write, or show."""
    from shiftdc_eval.backbones import load_backbone
    from shiftdc_eval.defenses.contrast import load_contrast

    spec = model_options.spec_of(args.pretrained, args)
    given = load_contrast(args.contrast) if args.contrast else None  # wrong ones before the weights
    backbone = load_backbone(spec)
    contrast = given or load_contrast(backbone.contrast_file)
    return (_fit if args.action == "fit" else _show)(args, backbone, contrast)


def _fit(args: argparse.Namespace, backbone: Backbone, contrast: ContrastSet) -> int:
    from shiftdc_eval.defenses.directions import fit

    direction = fit(backbone, contrast, batch_size=args.batch_size)
    direction.save(args.out)
    say(
        f"{args.out}: {direction.layers} layers x {direction.hidden}, {direction.samples_safe} safe and "
        f"{direction.samples_unsafe} unsafe texts of {contrast.name}, sha256 {direction.sha256[:16]}"
    )
    return 0


def _show(args: argparse.Namespace, backbone: Backbone, contrast: ContrastSet) -> int:
    from rich.console import Console
    from rich.table import Table

    from shiftdc_eval.defenses.directions import cached, check, separation
    from shiftdc_eval.steering import SafetyDirection

    if args.direction:
        direction = check(SafetyDirection.load(args.direction), backbone, args.direction)
    else:
        direction = cached(backbone, contrast, batch_size=args.batch_size)
    rows = separation(backbone, direction, contrast, batch_size=args.batch_size)
    table = Table(title=f"Held-out fifth of {contrast.name} on {backbone.name}")
    for column in ("layer", "AUROC", "norm", "cosine to next"):
        table.add_column(column, justify="right")
    for row in rows:
        cosine = "" if row.cosine_next is None else f"{row.cosine_next:.3f}"
        table.add_row(str(row.layer), f"{row.auroc:.3f}", f"{row.norm:.3g}", cosine)
    Console().print(table)
    if args.plot:
        plot(rows, args.plot, title=f"{backbone.name}, {contrast.name}")
        say(f"plot: {args.plot}")
    return 0


def plot(rows: Sequence[LayerSeparation], path: Path, *, title: str) -> None:
    """Write a plot of AUROC and cosine to the next layer, over layers."""
    from matplotlib.figure import Figure

    from shiftdc_eval.core.files import replaced

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [row.layer for row in rows], [row.auroc for row in rows], marker="o", label="AUROC, held-out texts"
    )
    cosines = [(row.layer, row.cosine_next) for row in rows if row.cosine_next is not None]
    axes.plot(*zip(*cosines, strict=True), marker="s", linestyle="--", label="cosine to the next layer")
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="decoder layer", ylim=(-0.05, 1.05), title=title)
    axes.legend(loc="lower right")
    with replaced(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png")
