"""Everything of a model but its weights, from a hub id, a folder, or a model that this package brings along."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedConfig

from shiftdc_eval.backbones.bundled.registry import BUNDLED
from shiftdc_eval.backbones.families import CAVEATS, MULTIMODAL_LM_ONLY, convertible
from shiftdc_eval.backbones.native import NATIVE, register
from shiftdc_eval.backbones.revision import folder_revision
from shiftdc_eval.core.errors import ConfigError, ModelError, ShiftDCError
from shiftdc_eval.core.model_spec import ModelArguments
from shiftdc_eval.core.validation import nearest
from shiftdc_eval.core.weights import folder_problems

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
"""How accelerate may spread one model over devices."""


@dataclass(frozen=True)
class Parts:
    """Everything of a model but its weights."""

    config: Any
    processor: Any
    loader: Any
    """The auto class that makes the model."""
    dtype: torch.dtype
    device: str
    source: str
    """Hub id or folder."""
    revision: str
    """Commit of the hub, or a hash of a local folder."""
    note: str
    """A caveat that is recorded with every result of this model."""


def load_parts(spec: ModelArguments) -> Parts:
    """Load configuration and processor.

    Raises:
        ConfigError: an unknown dtype, device or device map.
        ModelError: no such model, or one that is not supported; the message names what is missing.
    """
    device = _device(spec.device)
    dtype = _dtype(spec.dtype, device)
    if spec.device_map is not None and spec.device_map not in DEVICE_MAPS:
        raise ConfigError(f"device_map={spec.device_map} is unknown; use {', '.join(DEVICE_MAPS)}")
    source, note = BUNDLED[spec.pretrained]() if spec.pretrained in BUNDLED else (spec.pretrained, "")
    if wrong := "; ".join(folder_problems(Path(source))):
        raise ModelError(f"cannot load pretrained={spec.pretrained}: {wrong}")
    common = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    try:
        raw, _ = PreTrainedConfig.get_config_dict(source, revision=spec.revision)
        if hint := convertible(raw):
            raise ModelError(f"pretrained={spec.pretrained} {hint}")
        if raw.get("model_type") in NATIVE:
            register()
        config = AutoConfig.from_pretrained(source, **common)
        # an attribute: asked for, transformers imports for two seconds, which a check of arguments need not wait for
        processor = transformers.AutoProcessor.from_pretrained(source, **common)
    except ShiftDCError:
        raise
    except Exception as error:  # a damaged folder makes transformers raise nearly anything
        raise ModelError(cannot_load(spec, error)) from error
    folder = Path(source)
    if not hasattr(processor, "image_processor"):
        raise ModelError(
            f"pretrained={spec.pretrained} is not a supported vision-language model of the installed "
            f"transformers: its processor ({type(processor).__name__}) takes no images"
        )
    return Parts(
        config=config,
        processor=processor,
        loader=(
            transformers.AutoModelForMultimodalLM
            if config.model_type in MULTIMODAL_LM_ONLY
            else transformers.AutoModelForImageTextToText
        ),
        dtype=dtype,
        device=device,
        source=str(source),
        revision=(
            folder_revision(folder)
            if folder.is_dir()
            else str(getattr(config, "_commit_hash", None) or f"unknown revision of {spec.pretrained}")
        ),
        note=note or CAVEATS.get(config.model_type, ""),
    )


def cannot_load(spec: ModelArguments, error: Exception) -> str:
    """Why a model cannot be loaded, in one line."""
    where = f"pretrained={spec.pretrained}" + (f" revision={spec.revision}" if spec.revision else "")
    first = " ".join(str(error).split())[:300] or type(error).__name__
    wrong = _wrong_folder(spec.pretrained)
    if wrong or isinstance(error, OSError):
        return (
            f"cannot load {where}: {wrong or first} Give a hub id that can be reached from here, a local folder with "
            f"config, weights and processor, or one of the bundled models: {', '.join(BUNDLED)}"
        )
    if isinstance(error, (RuntimeError, SafetensorError)):
        return f"cannot load {where}: its weights are damaged, do not fit its configuration or the memory: {first}"
    return f"{where} is not a supported vision-language model of the installed transformers: {first}"


def _wrong_folder(pretrained: str) -> str:
    """What is wrong with a name that can only be a folder's; transformers would take it for a malformed hub id."""
    folder = Path(pretrained)
    if folder.is_dir():
        return "" if (folder / "config.json").is_file() else "the folder has no config.json."
    if "/" in pretrained and not pretrained.startswith(("/", "~", "./", "../")):
        return ""
    return f"there is no such folder{nearest(pretrained, BUNDLED) or '.'}"


def _device(name: str) -> str:
    if name == "auto":
        # under data parallelism each process takes a GPU of its own
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ConfigError(f"device={name} is not a torch device; use cpu, cuda, cuda:0 ...") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={name}: torch sees no CUDA device here; use device=cpu")
    return name


def _dtype(name: str, device: str) -> torch.dtype:
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    if name not in DTYPES:
        raise ConfigError(f"dtype={name} is unknown; use auto, {', '.join(DTYPES)}")
    return DTYPES[name]
