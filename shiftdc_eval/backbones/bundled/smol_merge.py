"""Base and delta become a plain LLaVA folder that any tool of transformers reads.

The folder is made once, in the user's cache, whole or not at all, and only by one process; its revision
follows from what went in and not from the machine, so that cells of two machines belong together.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import shutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shiftdc_eval.backbones.bundled import smol_config as build
from shiftdc_eval.backbones.bundled.smol_base import base_file, verified
from shiftdc_eval.backbones.bundled.smol_delta import Delta, load_delta, pairs
from shiftdc_eval.backbones.revision import folder_revision, record
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.core.files import writing
from shiftdc_eval.core.locks import locked
from shiftdc_eval.core.paths import cache_dir

logger = logging.getLogger(__name__)

MERGE_VERSION = 1
"""Raised by hand whenever the same base and delta would make another model."""
DELTA = Path(__file__).parent / "smol" / "delta.safetensors"
NOTE = (
    "small research model: SmolLM2-135M with a vision tower trained on benign images alone; its blind spot was built, "
    "and it is no evidence about other models"
)
"""The caveat that is recorded with every result of the model."""
LANGUAGE = "model.language_model."
_LAYER = re.compile(r"\.encoder\.layers\.(\d+)\.")


def cached_folder(delta_file: Path = DELTA, base: Path | None = None) -> Path:
    """The merged model in the user's cache; merged now when it is not there or not what it was.

    The base is the GGUF file of the installed package by default.

    Raises:
        ModelError: base or delta is missing, damaged, or they do not belong together.
    """
    return _cached(cache_dir(), delta_file, delta_file.stat().st_mtime_ns if delta_file.exists() else 0, base)


@lru_cache(maxsize=4)
def _cached(cache: Path, delta_file: Path, _: int, base: Path | None) -> Path:
    # once a process: a grid asks for the folder of every cell
    delta = load_delta(delta_file)
    revision = revision_of(delta)
    folder = cache / "models" / f"smol-{revision[:16]}"
    with (
        locked(folder.with_suffix(".lock")),
        writing(folder, "set SHIFTDC_CACHE to another folder"),
    ):  # other processes wait and load what this one merged
        for left in folder.parent.glob(f".{folder.name}.*.part"):  # of a merge that was killed
            shutil.rmtree(left)
        if folder.is_dir():
            if folder_revision(folder) == revision:
                return folder
            logger.warning("%s is not what was merged; merging again", folder)
            shutil.rmtree(folder)
        merge(base or base_file(), delta, folder)
    return folder


def merge(base: Path, delta: Delta, out: Path) -> None:
    """Write the model of a base (its GGUF file) and a delta to a new folder, whole or not at all.

    Raises:
        ModelError: the folder exists, or base and delta do not belong together.
    """
    if out.exists():
        raise ModelError(f"{out} exists already; remove it, or name another folder")
    verified(base, delta.metadata["base_sha256"])
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{secrets.token_hex(8)}.part")
    partial.mkdir()
    try:
        model, processor = merged(base, delta)
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        made_from = {"base_sha256": delta.metadata["base_sha256"], "delta_sha256": delta.sha256}
        record(partial, revision_of(delta), folder_revision(partial), **made_from)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def merged(base: Path, delta: Delta) -> tuple[Any, Any]:
    """Model (float16) and processor in memory.

    Raises:
        ModelError: the base cannot be read, or the delta does not fit it.
    """
    from transformers import GenerationConfig, LlavaForConditionalGeneration

    language, tokenizer = read_base(base)
    tokenizer = build.build_tokenizer(tokenizer)
    width, layers = tower_size(delta.state)
    config = build.build_config(language.config, tokenizer, width=width, layers=layers)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    state = {
        name.replace("model.", LANGUAGE, 1): tensor
        for name, tensor in language.state_dict().items()
        if name.startswith("model.")
    }
    applied = apply(state, delta.state, {name: tensor.shape for name, tensor in model.state_dict().items()})
    # not built and then filled: drawing weights that are thrown away takes longer than all the rest
    model = LlavaForConditionalGeneration.from_pretrained(
        None, config=config, state_dict=applied, dtype=torch.float16
    )
    ids = {name: getattr(config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(do_sample=False, **ids)
    return model, build.build_processor(tokenizer)


def read_base(base: Path) -> tuple[Any, Any]:
    """The base's language model in float32 and its tokenizer.

    Raises:
        ModelError: the package `gguf` is missing, or the file is no language model.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        language = AutoModelForCausalLM.from_pretrained(base.parent, gguf_file=base.name, dtype=torch.float32)
        return language, AutoTokenizer.from_pretrained(base.parent, gguf_file=base.name)
    except ImportError as error:
        raise ModelError(f"reading {base.name} needs the package gguf: run `pip install gguf`") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{base} cannot be read as a language model: {error}") from error


def apply(
    base: Mapping[str, Tensor], delta: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """The merged state in float16: base weights plus low-rank products, tower and projector as they are.

    Products are summed in float64, so that rounding to float16 hides in which order a machine adds.

    Args:
        base: the language model's tensors by their names in the merged model.
        delta: as `unpack` gives them.
        shapes: of every tensor that the merged model has; `lm_head` is tied and may be left out.

    Raises:
        ModelError: the delta names a tensor that the model lacks, leaves one out, or has another shape.
    """
    halves = pairs(delta)
    whole = {name: tensor for name, tensor in delta.items() if not name.endswith((".lora_a", ".lora_b"))}
    # one version of transformers has the tower's parts under `vision_model`, another has not
    plain = {name.replace(".vision_model.", "."): tensor for name, tensor in whole.items()}
    made: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name == "lm_head.weight":
            continue
        source = base if name.startswith(LANGUAGE) else plain
        found = source.get(name if source is base else name.replace(".vision_model.", "."))
        if found is None or found.numel() != shape.numel():
            raise ModelError(
                f"delta and base do not make this model: {name} {list(shape)} is "
                f"{'missing' if found is None else list(found.shape)}"
            )
        made[name] = found.reshape(shape).double()
    for module, (a, b) in halves.items():
        weight = made.get(f"{module}.weight")
        if weight is None or weight.shape != (b.shape[0], a.shape[1]):
            raise ModelError(
                f"delta: {module} [{b.shape[0]}, {a.shape[1]}] does not fit the base's "
                f"{'missing module' if weight is None else list(weight.shape)}"
            )
        weight += b.double() @ a.double()
    if foreign := plain.keys() - {name.replace(".vision_model.", ".") for name in made}:
        raise ModelError(f"delta: {min(foreign)} is no part of the model")
    return {name: tensor.half() for name, tensor in made.items()}


def tower_size(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Width and depth of the vision tower that a delta holds.

    Raises:
        ModelError: it holds none.
    """
    width = next((t.shape[0] for n, t in state.items() if n.endswith(".patch_embedding.weight")), 0)
    depths = [int(found[1]) + 1 for name in state if (found := _LAYER.search(name))]
    if not width or not depths:
        raise ModelError("delta: it holds no vision tower (patch_embedding.weight, encoder.layers)")
    return width, max(depths)


def revision_of(delta: Delta) -> str:
    """Hash of all that makes the model: base, delta, version of the merge, template, image size, image token."""
    what = [
        MERGE_VERSION,
        delta.metadata["base_sha256"],
        delta.sha256,
        build.CHAT_TEMPLATE,
        build.SIZE,
        build.PATCH,
        build.IMAGE_TOKEN,
        build.UNUSED_TOKEN,
    ]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()
