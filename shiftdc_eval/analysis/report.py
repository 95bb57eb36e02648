"""From a recording to one report: every number, layer by layer, with its interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from shiftdc_eval.analysis import measures, projection
from shiftdc_eval.analysis.findings import findings
from shiftdc_eval.analysis.items import visual_classes
from shiftdc_eval.analysis.measures import Labels, SafetyProbe, VisualProbe
from shiftdc_eval.analysis.probes import FOLDS, MINIMUM
from shiftdc_eval.analysis.recording_file import Manifest, Recording
from shiftdc_eval.core.errors import ConfigError, DataError, DirectionError
from shiftdc_eval.core.statistics.intervals import CONFIDENCE, Bools, Estimate, numbered
from shiftdc_eval.core.statistics.weighted import DRAWS, Bootstrap, Floats
from shiftdc_eval.judges.registry import get_judge
from shiftdc_eval.judges.verdict import Item as JudgeItem
from shiftdc_eval.steering import SafetyDirection

FORMAT = "shiftdc-analysis-1"
FITTED_ON = ("text_caption", "text")
"""Conditions that safety probes are fitted on; the paper's is the first."""
JUDGE = "keyword_robust"
DIGITS = 6
WORKERS = 2
"""Layers analysed at once; each holds all conditions of its layer in memory."""


def labels_of(manifest: Manifest) -> Labels:
    """Roles and questions of the recorded items."""
    role = np.array([item.role for item in manifest.items])
    return Labels(role == "harmful", role == "benign", [item.question for item in manifest.items])


def analyse(
    folder: Path, *, layer: int | None = None, judge: str = JUDGE, tsne: bool = True
) -> dict[str, Any]:
    """Analyse a complete recording.

    Args:
        folder: of the recording, with `direction.safetensors` and `directions/` in it.
        layer: where the plane pictures and findings are taken; the middle of the calibrated layers when None.
        judge: which refusal judge reads the answers.
        tsne: False leaves out PCA and t-SNE.

    Raises:
        ConfigError: no such layer.
        DataError: too few items for the safety probe.
        DirectionError: a direction that does not fit the recording.
        RecordError: the recording is incomplete or damaged.
    """
    recording = Recording(folder)
    manifest = recording.manifest
    chosen = focus(manifest) if layer is None else layer
    if not 0 <= chosen < manifest.layers:
        raise ConfigError(
            f"--layer {chosen} does not exist: the recording has layers 0 to {manifest.layers - 1}"
        )
    vectors = _directions(folder, manifest)
    labels = labels_of(manifest)
    bootstrap = Bootstrap(numbered(labels.questions))
    probe = SafetyProbe.of(labels)
    visual, notes = _visual_probes(manifest, labels)
    refused = _refused(recording, judge)

    def one(index: int) -> dict[str, Any]:
        return _layer(recording.layer(index), index, vectors, labels, probe, visual, refused, bootstrap)

    # a thread a layer: the matrices are too small for several threads of linear algebra to help each other
    with threadpool_limits(1), ThreadPoolExecutor(WORKERS) as pool:
        drawn = pool.submit(_planes, recording, chosen, labels) if tsne else None
        layers = pool.map(one, range(manifest.layers))
        rows = list(tqdm(layers, total=manifest.layers, desc="analysing", unit="layer"))
        planes = drawn.result() if drawn else {}
    report = {
        "format": FORMAT,
        **_about(manifest, labels),
        "layer": chosen,
        "judge": judge,
        "bootstrap": {"draws": DRAWS, "confidence": CONFIDENCE, "clusters": "question"},
        "probe": {"folds": FOLDS, "kind": "ridge on class indicators, penalty = mean squared norm"},
        "visual_probes": {
            one.name: {"classes": int(one.classes.max()) + 1, "chance": one.chance, "n": len(one.chosen)}
            for one in visual
        },
        "curves": stack(rows),
        "refused": {
            name: {"refused": int(no[said].sum()), "judged": int(said.sum()), **_by_role(no, said, labels)}
            for name, (no, said) in refused.items()
        },
        "planes": planes,
        "readout": _readout(recording, visual, refused, bootstrap),
        "notes": [*manifest.notes, *notes],
    }
    report["findings"] = findings(report)
    return report


def _planes(recording: Recording, layer: int, labels: Labels) -> dict[str, Any]:
    return projection.project(recording.layer(layer), labels.harmful, labels.benign)


def _readout(
    recording: Recording,
    visual: Sequence[VisualProbe],
    refused: Mapping[str, tuple[Bools, Bools]],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    """Visual probe -> calibrated condition -> what `VisualProbe.readout` finds at the last layer."""
    layer = recording.layer(recording.manifest.layers - 1)
    return {
        one.name: {
            name: {
                what: {key: _rounded(getattr(found, key)) for key in ("value", "low", "high")}
                | {"n": found.n}
                for what, found in one.readout(x, layer["image"], refused.get(name), bootstrap).items()
            }
            for name, x in layer.items()
            if name.startswith("image_")
        }
        for one in visual
    }


def focus(manifest: Manifest) -> int:
    """The middle of the calibrated layers."""
    first, last = map(int, manifest.calibrated_layers.split("-"))
    return (first + last) // 2


def _layer(
    activations: Mapping[str, Floats],
    index: int,
    vectors: Mapping[str, Floats],
    labels: Labels,
    probe: SafetyProbe,
    visual: Sequence[VisualProbe],
    refused: Mapping[str, tuple[Bools, Bools]],
    bootstrap: Bootstrap,
) -> dict[str, Any]:
    direction = vectors["contrast set"][index]
    own = measures.directions(activations, labels)
    compared = {name: vector[index] for name, vector in vectors.items()} | own
    matrix = measures.cosines(compared)
    names = list(compared)
    return {
        "shift": measures.shifts(activations, direction, labels, bootstrap),
        "coordinate": measures.coordinates(activations, direction, labels, bootstrap),
        "safety_probe": {on: probe.measure(activations, on, bootstrap) for on in FITTED_ON},
        "visual_probe": {one.name: one.measure(activations, bootstrap) for one in visual},
        "refusal": measures.refusals(activations, direction, refused, bootstrap),
        "cosine": {
            a: {b: _plain(matrix[i, j]) for j, b in enumerate(names) if j > i}
            for i, a in enumerate(names[:-1])
        },
        "split_half_cosine": {
            name: measures.split_half(activations[name], labels) for name in ("text", "text_caption", "image")
        },
        "direction_norm": _plain(np.linalg.norm(direction)),
    }


def _plain(value: Any) -> Estimate:
    return Estimate(float(value), math.nan, math.nan, 0, 0)


def stack(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Estimates of all layers as curves: `{"value": [...], "low": [...], "high": [...], "n": ...}`."""
    found: dict[str, Any] = {}
    for name, first in rows[0].items():
        column = [row[name] for row in rows]
        if not isinstance(first, Estimate):
            found[name] = stack(column)
            continue
        found[name] = {"value": [_rounded(one.value) for one in column]}
        if any(one.n for one in column):
            found[name] |= {
                "low": [_rounded(one.low) for one in column],
                "high": [_rounded(one.high) for one in column],
                "n": first.n,
            }
    return found


def _rounded(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _directions(folder: Path, manifest: Manifest) -> dict[str, Floats]:
    paths = {"contrast set": folder / "direction.safetensors"}
    paths |= {path.stem: path for path in sorted((folder / "directions").glob("*.safetensors"))}
    found = {name: SafetyDirection.load(path) for name, path in paths.items()}
    for name, one in found.items():
        if (one.layers, one.hidden) != (manifest.layers, manifest.hidden):
            raise DirectionError(
                f"{paths[name]} holds {one.layers} layers x {one.hidden}, the recording {manifest.layers} x "
                f"{manifest.hidden}: it was made for another model"
            )
    if (given := found["contrast set"].sha256) != manifest.direction_sha256:
        raise DirectionError(
            f"{paths['contrast set']} is direction {given[:12]}, the recording was calibrated "
            f"with {manifest.direction_sha256[:12]}; put that one back, or record anew in another folder"
        )
    return {name: one.vectors.numpy() for name, one in found.items()}


def _visual_probes(manifest: Manifest, labels: Labels) -> tuple[list[VisualProbe], list[str]]:
    usable = visual_classes(manifest.items, MINIMUM)
    made, notes = [], []
    for name, classes in usable.items():
        try:
            made.append(VisualProbe.of(name, classes, labels.questions))
        except DataError as error:
            notes.append(f"left out: {error}")
    if not usable:
        notes.append(
            f"no visual probe: no two classes with {MINIMUM} questions each; record items about what is seen "
            "with --visual TASK"
        )
    return made, notes


def _refused(recording: Recording, name: str) -> dict[str, tuple[Bools, Bools]]:
    """Condition -> (refused, judged), over harmful and benign items."""
    manifest = recording.manifest
    if not manifest.answered:
        return {}
    rows, judge = recording.answers(), get_judge(name)
    asked = np.array([item.role != "visual" for item in manifest.items])
    found = {}
    for condition in manifest.answered:
        items = [JudgeItem(row["id"], row["request"], row["answers"][condition]) for row in rows]
        verdicts = judge.judge(items)
        refused = np.array([verdict.value == "refused" for verdict in verdicts])
        scored = np.array([verdict.scored for verdict in verdicts])
        found[condition] = (refused & asked, scored & asked)
    return found


def _by_role(refused: Bools, judged: Bools, labels: Labels) -> dict[str, Any]:
    return {
        role: {"refused": int((refused & chosen).sum()), "judged": int((judged & chosen).sum())}
        for role, chosen in (("harmful", labels.harmful), ("benign", labels.benign))
    }


def _about(manifest: Manifest, labels: Labels) -> dict[str, Any]:
    facts = manifest.model_dump(exclude={"items", "format", "shard_items", "notes"})
    return {
        "recording": {**facts, "sha256": manifest.sha256},
        "items": {
            "harmful": int(labels.harmful.sum()),
            "benign": int(labels.benign.sum()),
            "visual": int((~labels.judged).sum()),
            "questions": len(set(labels.questions)),
            "tasks": dict(sorted(Counter(item.task for item in manifest.items).items())),
            "flags": dict(sorted(Counter(flag for item in manifest.items for flag in item.flags).items())),
        },
    }
