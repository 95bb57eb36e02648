"""Recordings with planted directions, shifts and label noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shiftdc_eval.analysis import recording_file as shards
from shiftdc_eval.analysis.recording_file import ItemRecord, Manifest
from shiftdc_eval.steering import SafetyDirection

CONDITIONS = ["text", "text_caption", "image", "blank", "noise", "image_online"]


@dataclass(frozen=True)
class Planted:
    """What is planted; the numbers that an analysis should find again."""

    questions: int = 120
    """Questions of each side."""
    hidden: int = 48
    layers: int = 2
    length: float = 8.0
    """Norm of the safety direction; the noise has deviation 1 in every dimension."""
    harmful_shift: float = 0.8
    """Coordinate of the harmful images' shift."""
    benign_shift: float = 0.0
    visual_length: float = 6.0
    """Norm of what the image adds across the direction: its class."""
    label_noise: float = 0.0
    """Share of questions whose text does not look like their label."""
    shuffled: bool = False
    """Labels that have nothing to do with the activations."""
    copies: int = 1
    """Equal items a question."""
    seed: int = 0


def write(folder: Path, planted: Planted, **changes: Any) -> Manifest:
    """A complete recording of planted activations; `changes` replace fields of the manifest."""
    rng = np.random.default_rng(planted.seed)
    harmful = np.arange(2 * planted.questions) % 2 == 0
    looks = harmful ^ (rng.random(len(harmful)) < planted.label_noise)
    if planted.shuffled:
        looks = rng.permutation(looks)
    kinds = rng.integers(0, 3, len(harmful))
    direction = rng.standard_normal((planted.layers, planted.hidden))
    direction *= planted.length / np.linalg.norm(direction, axis=1, keepdims=True)
    activations = {name: [] for name in CONDITIONS}
    for s in direction:
        across = rng.standard_normal((3, planted.hidden))
        across -= np.outer(across @ s / (s @ s), s)
        across *= planted.visual_length / np.linalg.norm(across, axis=1, keepdims=True)
        own = np.where(looks, -0.5, 0.5)[:, None] * s
        text = own + rng.standard_normal((len(harmful), planted.hidden))
        shift = np.where(looks, planted.harmful_shift, planted.benign_shift)[:, None] * s + across[kinds]
        image = text + shift
        found = {
            "text": own + rng.standard_normal(text.shape),
            "text_caption": text,
            "image": image,
            "blank": text + across[0],
            "noise": text + across[1],
            "image_online": image - np.outer(shift @ s / (s @ s), s),
        }
        for name, x in found.items():
            activations[name].append(np.repeat(x, planted.copies, axis=0))
    order = np.repeat(np.arange(len(harmful)), planted.copies)
    items = [
        ItemRecord(
            id=f"made:{at}-{copy}",
            task="made",
            role="harmful" if harmful[at] else "benign",
            question=f"q{at}",
            scenario=f"kind {kinds[at]}",
        )
        for copy, at in enumerate(order.tolist())
    ]
    manifest = Manifest(
        model="made",
        revision="0",
        template_sha256="0" * 64,
        direction_sha256=save_direction(folder / "direction.safetensors", direction).sha256,
        contrast_sha256="0" * 64,
        dtype="float32",
        attention="sdpa",
        inputs_sha256="0" * 64,
        layers=planted.layers,
        hidden=planted.hidden,
        calibrated_layers=f"0-{planted.layers - 1}",
        conditions=CONDITIONS,
        answered=["image"],
        max_new_tokens=8,
        caption_max_new_tokens=8,
        shard_items=64,
        items=items,
    ).model_copy(update=changes)
    shards.create(folder, manifest)
    stacked = {name: np.stack(layers, axis=1).astype(np.float32) for name, layers in activations.items()}
    looks = np.repeat(looks, planted.copies)
    for index, part in enumerate(manifest.shards):
        rows = [
            {
                "id": items[at].id,
                "request": "made",
                "prompt": "made",
                "caption": "made",
                # refused exactly where the image left it unsafe
                "answers": {"image": "I'm sorry, I cannot help." if said_no else "take the kite"},
            }
            for at, said_no in ((at, looks[at] and planted.harmful_shift < 0.5) for at in part)
        ]
        shards.write_shard(
            folder, manifest, index, {name: x[part.start : part.stop] for name, x in stacked.items()}, rows
        )
    return manifest


def save_direction(path: Path, vectors: Any) -> SafetyDirection:
    """A direction file with these vectors."""
    direction = SafetyDirection(
        vectors=torch.tensor(np.asarray(vectors, dtype=np.float32)),
        model="made",
        revision="0",
        template_sha256="0" * 64,
        contrast_sha256="0" * 64,
        samples_safe=1,
        samples_unsafe=1,
    )
    direction.save(path)
    return direction


def changed(planted: Planted, **changes: Any) -> Planted:
    """The same plan with other numbers."""
    return replace(planted, **changes)
