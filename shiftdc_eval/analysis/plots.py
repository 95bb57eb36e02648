"""The report's plots as SVG; the same report gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shiftdc_eval.core.files import atomic_write

COLOURS = (
    *("#0b62a8", "#c14a00", "#a0458a", "#00795a", "#7a6200", "#4b4fc4"),
    *("#111111", "#b3263e", "#0f8b9e", "#8a5a3c", "#5a606b"),
)
MARKERS = ("o", "s", "D", "^", "v", "P", "*", "X", "<", ">", "h")
STYLE = {
    "svg.hashsalt": "shiftdc-eval",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
NAMES = {
    "text": "text",
    "text_caption": "captioned text",
    "text_reference": "text, the data's caption",
    "image": "image",
    "blank": "blank image",
    "noise": "noise image",
    "image_online": "calibrated (online)",
    "image_paper": "calibrated (paper)",
    "image_official": "calibrated (official)",
    "image_published": "calibrated (published)",
    "image_cmrm": "blank image's shift removed (CMRM)",
}

Panel = tuple[str, Mapping[str, Mapping[str, Any]], tuple[float, float] | None]
"""Title, label -> curve, limits of the y axis."""
PLANES = {"pca": "PCA", "tsne": "t-SNE"}


def write_all(report: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Write every plot; (file name, what it shows) of each."""
    curves = report["curves"]
    probe = curves["safety_probe"]["text_caption"]
    shown = [name for name in report["recording"]["conditions"] if name not in ("blank", "noise")]
    found = curves["shift"]["image - text_caption"]
    shift = {group: found[group] for group in ("benign", "harmful") if group in found}
    made: list[tuple[str, str, list[Panel]]] = [
        (
            "shift.svg",
            "Modality shift (image minus captioned text): its coordinate along the safety direction, 1 = from the "
            "unsafe to the safe texts, and the share of its square that lies along it.",
            [
                ("coordinate of the shift", {g: shift[g]["coordinate"] for g in shift}, None),
                ("share of the squared shift", {g: shift[g]["squared_share"] for g in shift}, (0, 1)),
                ("norm of the shift", {g: shift[g]["norm"] for g in shift}, None),
            ],
        ),
        (
            "probe.svg",
            "Safety probe fitted on captioned texts, tested on questions it was not fitted on: accuracy, and the "
            "share of harmful requests it calls safe.",
            [
                ("accuracy", {n: probe[n]["accuracy"] for n in shown}, (0, 1.02)),
                ("harmful called safe", {n: probe[n]["harmful_called_safe"] for n in shown}, (0, 1.02)),
                ("AUROC", {n: probe[n]["auroc"] for n in shown}, (0, 1.02)),
            ],
        ),
        (
            "coordinate.svg",
            "Mean safety coordinate by condition, harmful and benign items.",
            [
                (
                    f"{g} items",
                    {n: curves["coordinate"][n][g] for n in report["recording"]["conditions"]},
                    None,
                )
                for g in ("harmful", "benign")
            ],
        ),
    ]
    if curves["visual_probe"]:
        made.append(
            (
                "visual.svg",
                "Probe for what is seen, fitted on images: accuracy before and after calibration.",
                [
                    (name, {n: found[n]["accuracy"] for n in shown if n != "text"}, (0, 1.02))
                    for name, found in curves["visual_probe"].items()
                ],
            )
        )
    if curves["refusal"]:
        made.append(
            (
                "refusal.svg",
                "Does the coordinate explain the answers? Rank correlation of (minus) the coordinate with refusal, and "
                "the AUROC of the coordinate as a detector of harm.",
                [
                    (
                        "rank correlation with refusal",
                        {n: c["rank_correlation"] for n, c in curves["refusal"].items()},
                        (-1, 1),
                    ),
                    (
                        "AUROC for harm",
                        {n: curves["coordinate"][n]["detects_harm"] for n in shown},
                        (0, 1.02),
                    ),
                ],
            )
        )
    for name, _, panels in made:
        curve_figure(panels, folder / name, spans=report["recording"]["calibrated_layers"])
    listed = [(name, text) for name, text, _ in made]
    for kind, planes in report["planes"].items():
        plane_figure(planes["points"], folder / f"{kind}.svg", PLANES[kind])
        listed.append(
            (
                f"{kind}.svg",
                f"{PLANES[kind]} of layer {report['layer']}: colour is the condition, shape is harm.",
            )
        )
    return listed


def curve_figure(panels: Sequence[Panel], path: Path, *, spans: str = "") -> None:
    """Curves over layers with their intervals, one panel each.

    Args:
        panels: title, label -> curve, limits of the y axis.
        path: SVG to write.
        spans: `first-last` layers to shade.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(max(3.6 * len(panels), 4.6), 3.3), layout="constrained")
        shared = len({tuple(curves) for _, curves, _ in panels}) == 1
        for axes, (title, curves, limits) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            for at, (label, curve) in enumerate(curves.items()):
                draw_curve(axes, label, curve, at)
            if spans:
                first, last = map(int, spans.split("-"))
                axes.axvspan(first - 0.5, last + 0.5, color="#888888", alpha=0.12, linewidth=0)
            axes.set(title=title, xlabel="decoder layer")
            if limits:
                axes.set_ylim(*limits)
            if not shared:
                axes.legend(fontsize=7)
        if shared:
            lines, labels = figure.axes[0].get_legend_handles_labels()
            columns = min(2 * len(panels), 4)
            figure.legend(lines, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
        save(figure, path)


def _place(condition: str, otherwise: int) -> int:
    """A condition looks the same in every plot."""
    return list(NAMES).index(condition) if condition in NAMES else otherwise


def draw_curve(axes: Axes, label: str, curve: Mapping[str, Any], at: int) -> None:
    """One curve and its band."""
    at = _place(label, at)
    colour = COLOURS[at % len(COLOURS)]
    values = [float("nan") if value is None else value for value in curve["value"]]
    layers = range(len(values))
    axes.plot(
        layers,
        values,
        color=colour,
        marker=MARKERS[at % len(MARKERS)],
        markersize=3,
        label=NAMES.get(label, label),
    )
    if "low" in curve:
        low, high = ([float("nan") if v is None else v for v in curve[end]] for end in ("low", "high"))
        axes.fill_between(layers, low, high, color=colour, alpha=0.15, linewidth=0)


def plane_figure(points: Mapping[str, Sequence[Sequence[float]]], path: Path, title: str) -> None:
    """Points of the groups: colour is the condition, shape is harm."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 4.2), layout="constrained")
        axes = figure.subplots()
        for name, pairs in points.items():
            side, condition = name.split(", ")
            axes.scatter(
                [x for x, _ in pairs],
                [y for _, y in pairs],
                s=14,
                alpha=0.7,
                linewidths=0.7,
                color=COLOURS[_place(condition, 0)],
                marker="x" if side == "harmful" else "o",
                label=f"{side}, {NAMES.get(condition, condition)}",
            )
        axes.set(title=title, xticks=[], yticks=[])
        axes.legend(fontsize=7)
        save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write an SVG without date: the same plot gives the same bytes."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    atomic_write(path, text.getvalue())
