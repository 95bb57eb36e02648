"""`shiftdc-eval doctor MODEL`: check a model before a long run.

Loads it (with `--random-weights` a small random twin made from its configuration, so that no weights are
needed), shows what the package sees of it, and runs one image through every defense. Exits with 1 when a
defense fails.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shiftdc_eval.core import model_options
from shiftdc_eval.core.errors import ShiftDCError
from shiftdc_eval.core.terminal import say

if TYPE_CHECKING:
    from PIL import Image

    from shiftdc_eval.backbones import Backbone
    from shiftdc_eval.backbones.tiny_random import Size
    from shiftdc_eval.backbones.transformers_backbone import TransformersBackbone
    from shiftdc_eval.defenses import Settings

REQUEST = "Describe what is shown here."
PAIRS = 8
"""Contrast pairs for the check's direction: enough to run, too few to use."""
NEW_TOKENS = 8
ANSWER_TOKENS = 512
BATCH = 8
"""Answer length and batch that the memory estimate is made for."""
GIB = 1024**3


@dataclass(frozen=True)
class Checked:
    """Outcome of one defense."""

    name: str
    problem: str
    """Error message; empty if it answered."""
    seconds: float
    left_out: str = ""
    """Why it was not run."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.description = __doc__
    parser.add_argument("model", metavar="MODEL", help="hub id, folder or bundled model (toy, smol)")
    model_options.add_options(parser)
    parser.add_argument(
        "--random-weights", action="store_true", help="check a small random twin; needs no weights"
    )


def main(args: argparse.Namespace) -> int:
    """Load, print the facts, run the defenses; 0 when every defense answered."""
    from shiftdc_eval.plugin import preflight

    spec = model_options.spec_of(args.model, args)
    if not Path(args.model).is_dir():  # what is wrong with a folder its loader tells
        preflight.refuse(preflight.model_problems(spec))
    from shiftdc_eval.backbones.loading import load_transformers
    from shiftdc_eval.backbones.tiny_random import load_twin, size_of

    if args.random_weights:
        backbone, size = load_twin(spec)
        print("random weights: a small twin runs below; the sizes are those of the real model")
    else:
        backbone = load_transformers(spec)
        size = size_of(backbone.model.config, sum(p.numel() for p in backbone.model.parameters()))
    for label, value in facts(backbone, size):
        say(f"{label:<18} {value}")
    problems = 0
    for checked in check_defenses(backbone):
        problems += bool(checked.problem)
        done = checked.left_out or f"ok, {checked.seconds:.2f} s"
        say(f"defense={checked.name:<18} {checked.problem or done}")
    return 1 if problems else 0


def picture() -> Image.Image:
    """A test image of coloured shapes."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (336, 252), "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((30, 30, 130, 130), fill="red")
    draw.ellipse((180, 90, 300, 210), fill="blue")
    return image


def facts(backbone: TransformersBackbone, size: Size) -> Iterator[tuple[str, str]]:
    """Facts about a loaded model, as label and value.

    Raises:
        ModelError: the processor cannot encode a chat with or without an image.
    """
    from shiftdc_eval.backbones import Chat
    from shiftdc_eval.backbones.families import image_placeholders
    from shiftdc_eval.backbones.generation import penalties

    with_image = backbone.encode([Chat.ask(REQUEST, [picture()])])
    without = backbone.encode([Chat.ask(REQUEST)])
    ids = with_image.inputs["input_ids"][0].tolist()
    places = set(image_placeholders(backbone.model.config))
    images = sum(token in places for token in ids)
    yield "model", f"{backbone.name} ({backbone.revision[:16]})"
    yield "architecture", f"{backbone.architecture}, processor {type(backbone.processor).__name__}"
    if backbone.note:
        yield "caveat", backbone.note
    yield "template", repr(collapsed(backbone.tokenizer, ids, places))
    yield "template sha256", backbone.template_sha256[:16]
    yield (
        "prompt tokens",
        f"{with_image.width} with the image ({images} image tokens), {without.width} without",
    )
    yield "decoder layers", f"{size.layers} of width {size.hidden}"
    if backbone.skipped_without_image:
        skipped = ", ".join(map(str, sorted(backbone.skipped_without_image)))
        yield "cross-attention", f"layers {skipped} run only with an image (docs/models.md says what follows)"
    yield "engine", backbone.engine
    if kept := penalties(backbone.model.generation_config):
        settings = ", ".join(f"{name}={value}" for name, value in kept.items())
        yield "generation", f"the model's own settings stay in force: {settings}"
    yield "dtype and device", f"{str(backbone.dtype).removeprefix('torch.')} on {backbone.device}"
    yield "parameters", f"{size.parameters:,}"
    width = backbone.dtype.itemsize
    weights, token = size.parameters * width, size.cache_values_per_token * width
    cache = BATCH * (with_image.width + ANSWER_TOKENS) * token
    yield (
        "memory estimate",
        f"weights {weights / GIB:.2f} GiB, KV cache {cache / GIB:.2f} GiB at batch {BATCH} with "
        f"{ANSWER_TOKENS} new tokens; activations come on top",
    )


def collapsed(tokenizer: Any, ids: list[int], places: set[int]) -> str:
    """A prompt as text; repeated image tokens are shown once with their count."""
    parts: list[str] = []
    for is_image, group in groupby(ids, places.__contains__):
        run = list(group)
        parts.append(str(tokenizer.decode(run[:1] if is_image else run)))
        if is_image and len(run) > 1:
            parts.append(f"[x{len(run)}]")
    return "".join(parts)


def check_defenses(backbone: Backbone, names: Iterable[str] | None = None) -> Iterator[Checked]:
    """Run one image request and one text request through the named defenses, or all."""
    from shiftdc_eval.backbones import Chat, GenerationSettings
    from shiftdc_eval.defenses import DEFENSES, Request, Tools
    from shiftdc_eval.defenses.caption_store import CaptionStore
    from shiftdc_eval.defenses.contrast import ContrastSet, load_contrast
    from shiftdc_eval.defenses.directions import Directions

    contrast = ContrastSet(load_contrast(backbone.contrast_file).pairs[:PAIRS], "doctor")
    tools = Tools(backbone, CaptionStore(None), Directions(backbone, contrast=contrast))
    requests = [Request(Chat.ask(REQUEST, [picture()])), Request(Chat.ask(REQUEST))]
    for name in DEFENSES if names is None else names:
        started = time.perf_counter()
        problem = left_out = ""
        try:
            chosen = short(DEFENSES[name])
            if lacks := ", ".join(sorted(chosen.needed() - backbone.capabilities)):
                left_out = f"not tried: it needs {lacks}, which this model has not"
            elif chosen.other_models:
                left_out = f"not tried: it needs {' and '.join(chosen.other_models)} too"
            else:
                chosen.answer(tools, requests, GenerationSettings(max_new_tokens=NEW_TOKENS))
        except (ShiftDCError, ValueError, TypeError, RuntimeError, KeyError, OSError) as error:
            problem = f"FAILED: {str(error).strip().splitlines()[0] if str(error).strip() else repr(error)}"
        yield Checked(name, problem, time.perf_counter() - started, left_out)


def short(chosen: type[Settings]) -> Settings:
    """A defense with its defaults, but with short captions and self-checks, and with nothing to search among."""
    limits: dict[str, Any] = dict.fromkeys(("caption_max_new_tokens", "tell_max_new_tokens"), NEW_TOKENS)
    if "scored" in chosen.model_fields:  # candidates are compared by passes of their own
        limits |= {"scored": 1, "layers": "0"}
    return chosen().model_copy(update={k: v for k, v in limits.items() if k in chosen.model_fields})
