"""Writes what training gave as the 8-bit delta that `shiftdc_eval.backbones.bundled.smol_delta` reads."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from shiftdc_eval.backbones.bundled.smol_delta import FORMAT, SCALE, VERSION, content_sha256, pairs
from shiftdc_eval.core.errors import ModelError

LEVELS = 127
REQUIRED = ("base_sha256", "rank", "seed", "training_log_sha256")
"""Metadata that a delta must name beside its format, version and own hash."""


def pack(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """8-bit form of a delta: matrices symmetric int8 by rows, vectors float16.

    Raises:
        ModelError: a tensor is not finite, has no dimension, or does not fit into float16.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        values = tensor.detach().float().cpu()
        if name.endswith(SCALE) or values.ndim == 0 or not torch.isfinite(values).all():
            raise ModelError(
                f"delta: {name!r} {list(values.shape)} cannot be packed: it must be a vector or matrix of finite "
                f"numbers, and its name must not end in {SCALE!r}"
            )
        if values.ndim == 1:
            packed[name] = values.half()
        else:
            packed[name], packed[name + SCALE] = _quantised(values.flatten(1))
        if not torch.isfinite(packed.get(name + SCALE, packed[name])).all():
            raise ModelError(f"delta: {name!r} has values beyond float16; its training has diverged")
    return packed


def _quantised(rows: Tensor) -> tuple[Tensor, Tensor]:
    exact = rows.abs().amax(1) / LEVELS
    scale = exact.half()
    # rounded up, so that no value is clipped; the levels are those of the stored scale
    short = scale.float() < exact
    scale[short] = torch.nextafter(scale[short], torch.tensor(float("inf"), dtype=torch.half))
    levels = (rows / scale.float().clamp_min(torch.finfo(torch.float).tiny)[:, None]).round()
    return levels.clamp(-LEVELS, LEVELS).to(torch.int8), scale


def save_delta(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Pack a state and write it, whole or not at all; gives the delta's hash.

    Args:
        path: the file.
        state: float tensors by name.
        metadata: all of `REQUIRED`, and what else is worth knowing.

    Raises:
        ModelError: metadata or half of a pair is missing, or a tensor cannot be packed.
    """
    if missing := [name for name in REQUIRED if not metadata.get(name)]:
        raise ModelError(
            f"delta: metadata {', '.join(missing)} is missing; name all of {', '.join(REQUIRED)}"
        )
    pairs(state)
    packed = {name: tensor.contiguous() for name, tensor in pack(state).items()}
    facts = {**metadata, "format": FORMAT, "version": str(VERSION)}
    facts["sha256"] = content_sha256(packed, facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        save_file(packed, partial, metadata=facts)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return facts["sha256"]
