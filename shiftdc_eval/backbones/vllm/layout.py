"""Checkpoints whose tensors newer versions of transformers name in another way than vLLM expects."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from shiftdc_eval.core.paths import cache_dir

TOWERS = ("model.vision_tower.", "vision_tower.")
INNER = "vision_model."
"""transformers 5 leaves this out of the names of a CLIP or SigLIP tower; published checkpoints and vLLM have it."""
FLAT = frozenset({"clip_vision_model", "siglip_vision_model"})
"""Vision towers whose tensors are renamed."""


def renamed(name: str) -> str:
    """A tensor's name as vLLM looks for it."""
    for tower in TOWERS:
        if name.startswith(tower):
            rest = name.removeprefix(tower)
            return name if rest.startswith(INNER) else tower + INNER + rest
    return name


def for_vllm(source: str, vision: str, revision: str) -> str:
    """A folder that vLLM can read: the model's own, or a copy with other names in the cache.

    Args:
        source: hub id or folder; what lies on the hub is left alone.
        vision: `model_type` of the vision tower.
        revision: stands for the folder's files.
    """
    folder = Path(source)
    if vision not in FLAT or not folder.is_dir():
        return source
    files = sorted(folder.glob("*.safetensors"))
    if not any(renamed(name) != name for file in files for name in _names(file)):
        return source
    made = cache_dir() / "vllm" / revision
    if made.is_dir():
        return str(made)
    unfinished = made.with_name(f"{made.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and not path.name.endswith(".index.json"):
            shutil.copy(path, unfinished / path.name)
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            found = {renamed(name): tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        save_file(found, unfinished / file.name, metadata={"format": "pt"})
    try:
        unfinished.rename(made)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)
    return str(made)


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())
