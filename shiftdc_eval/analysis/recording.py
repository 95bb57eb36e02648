"""Recording: one prefill a condition, the last prompt token's activation after every decoder layer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from shiftdc_eval.analysis import recording_file as shards
from shiftdc_eval.analysis.items import Item, neutral
from shiftdc_eval.analysis.recorder import calibrated
from shiftdc_eval.analysis.recording_file import Manifest
from shiftdc_eval.backbones import Chat, GenerationSettings
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.hashing import image_sha256
from shiftdc_eval.core.statistics.weighted import Floats
from shiftdc_eval.defenses import Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.defenses.cmrm import Cmrm
from shiftdc_eval.defenses.none import NoDefense
from shiftdc_eval.defenses.shiftdc import ShiftDC, counterpart

PLAIN = ("text", "text_caption", "image", "blank", "noise")
"""Conditions without a calibration: the request in words; the image request with the caption in the image's
place; the image request; the same with a white and with a noise image."""
REFERENCE = "text_reference"
"""As `text_caption` with the data's own caption; recorded where every item has one."""
VARIANTS = ("online", "paper", "official", "published", "cmrm")


@dataclass(frozen=True)
class Plan:
    """What is recorded, and how."""

    items: Sequence[Item]
    """The items."""
    variants: tuple[str, ...] = ("online", "paper", "cmrm")
    """Calibrations, each a condition `image_<variant>`."""
    layers: str | None = None
    """Layers that ShiftDC calibrates; its default when None."""
    batch_size: int = 16
    """Items run together, which is also the size of a shard."""
    answers: bool = True
    """Whether answers are generated."""
    max_new_tokens: int = 64
    """Length limit of the answers."""
    caption_max_new_tokens: int = 1024
    """Length limit of the captions."""

    def __post_init__(self) -> None:
        for name in self.variants:
            if name not in VARIANTS:
                raise ConfigError(f"--variants {name}: unknown; choose from {', '.join(VARIANTS)}")

    @property
    def plain(self) -> list[str]:
        """Conditions without a calibration."""
        return [*PLAIN, *([REFERENCE] if all(item.image_text for item in self.items) else [])]

    @property
    def conditions(self) -> list[str]:
        """Names of everything that is recorded."""
        return [*self.plain, *(f"image_{variant}" for variant in self.variants)]

    @property
    def answered(self) -> list[str]:
        """Conditions that are answered too."""
        plain = ["text", "image"]
        return [*plain, *(f"image_{variant}" for variant in self.variants)] if self.answers else []

    def defense(self, variant: str) -> Any:
        """The defense that makes a variant's condition."""
        if variant == "cmrm":
            return Cmrm()
        given: dict[str, Any] = {
            "variant": variant,
            "layers": self.layers,
            "caption_max_new_tokens": self.caption_max_new_tokens,
        }
        if variant == "published":
            given |= {"variant": "official", "preset": "published"}
        return ShiftDC(**given)

    def passes(self) -> int:
        """Prefills that the conditions take, without captions and answers."""
        # cmrm and the two-pass variants measure image and counterpart anew; online measures the counterpart
        own = {"online": 2, "paper": 3, "official": 3, "published": 3, "cmrm": 3}
        return len(self.items) * (len(self.plain) + sum(own[variant] for variant in self.variants))


def manifest_of(plan: Plan, tools: Tools, notes: Sequence[str]) -> Manifest:
    """The recording's manifest."""
    backbone = tools.backbone
    direction = tools.direction()
    calibrated_layers = ShiftDC(layers=plan.layers).layer_indices(backbone)
    return Manifest(
        model=backbone.name,
        revision=backbone.revision,
        model_note=backbone.note,
        template_sha256=backbone.template_sha256,
        direction_sha256=direction.sha256,
        contrast_sha256=direction.contrast_sha256,
        dtype=str(backbone.dtype).removeprefix("torch."),
        attention=backbone.attention,
        inputs_sha256=_inputs_sha256(plan.items),
        layers=len(backbone.layers),
        hidden=backbone.hidden_size,
        calibrated_layers=f"{calibrated_layers[0]}-{calibrated_layers[-1]}",
        conditions=plan.conditions,
        answered=plan.answered,
        max_new_tokens=plan.max_new_tokens if plan.answers else 0,
        caption_max_new_tokens=plan.caption_max_new_tokens,
        shard_items=plan.batch_size,
        items=[item.record for item in plan.items],
        notes=list(notes),
    )


def _inputs_sha256(items: Sequence[Item]) -> str:
    """Under the same ids a benchmark's next version may hold other prompts or images; one image is held at a time."""
    digest = hashlib.sha256()
    for item in items:
        pixels = image_sha256(item.image())
        digest.update(json.dumps([item.prompt, item.request, item.image_text, pixels]).encode())
    return digest.hexdigest()


def record(plan: Plan, tools: Tools, folder: Path, notes: Sequence[str] = ()) -> Manifest:
    """Record what is missing of a plan; memory holds one shard at a time.

    Raises:
        ConfigError: the folder holds another recording.
        RecordError: a shard of it is damaged.
    """
    manifest = manifest_of(plan, tools, notes)
    shards.create(folder, manifest)
    with tqdm(total=len(plan.items), desc=f"recording {manifest.model}", unit="item") as progress:
        for index, part in enumerate(manifest.shards):
            if not shards.is_written(folder, manifest, index):
                activations, answers = _shard(plan, tools, [plan.items[at] for at in part])
                shards.write_shard(folder, manifest, index, activations, answers)
            progress.update(len(part))
    return manifest


def _shard(plan: Plan, tools: Tools, items: Sequence[Item]) -> tuple[dict[str, Floats], list[dict[str, Any]]]:
    settings = GenerationSettings(max_new_tokens=plan.max_new_tokens)
    images = [item.image() for item in items]
    chats = [Chat.ask(item.prompt, [image]) for item, image in zip(items, images, strict=True)]
    captions = ShiftDC(caption_max_new_tokens=plan.caption_max_new_tokens).captions(tools, chats, settings)
    asked = {
        "text": [Chat.ask(item.request) for item in items],
        "text_caption": [counterpart(chat, text) for chat, text in zip(chats, captions, strict=True)],
        "image": chats,
        "blank": [
            chat.with_images([neutral(image, "blank")]) for chat, image in zip(chats, images, strict=True)
        ],
        "noise": [
            chat.with_images([neutral(image, "noise")]) for chat, image in zip(chats, images, strict=True)
        ],
    }
    if REFERENCE in plan.plain:
        asked[REFERENCE] = [
            counterpart(chat, item.image_text or "") for chat, item in zip(chats, items, strict=True)
        ]
    activations = {name: _array(tools.backbone.last_token_activations(asked[name])) for name in plan.plain}
    said: dict[str, list[str]] = {}
    for name in ("text", "image"):
        if name in plan.answered:
            given = NoDefense().answer(tools, [Request(chat) for chat in asked[name]], settings)
            said[name] = [answer.text for answer in given]
    for variant in plan.variants:
        name = f"image_{variant}"
        found, given = calibrated(tools, plan.defense(variant), chats, settings, answers=plan.answers)
        activations[name] = _array(found)
        if plan.answers:
            said[name] = [answer.text for answer in given]
    rows = [
        {
            "id": item.record.id,
            "request": item.request,
            "prompt": item.prompt,
            "caption": caption,
            "answers": {name: texts[at] for name, texts in said.items()},
        }
        for at, (item, caption) in enumerate(zip(items, captions, strict=True))
    ]
    return activations, rows


def _array(activations: Tensor) -> Floats:
    array: Floats = activations.to(torch.float32).cpu().numpy()
    return array


def tools_for(backbone: Any, direction: Any, captions: Path | None) -> Tools:
    """What defenses work with here."""
    return Tools(backbone, CaptionStore(captions), direction)
