"""The difference between the small research model and its base, in 8 bit.

A delta holds the low-rank pairs of the decoder's linear layers (`<module>.lora_a` `[rank, in]`,
`<module>.lora_b` `[out, rank]`; the merged weight is `base + lora_b @ lora_a`) and the whole vision tower
and projector. On disk a matrix is int8 with one float16 scale a row (`<name>` and `<name>.scale`), a
vector float16; a kernel of more dimensions is stored flat, `[out, rest]`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from shiftdc_eval.core.errors import ModelError

FORMAT = "shiftdc-eval smol delta"
VERSION = 1
SCALE = ".scale"
LORA_A, LORA_B = ".lora_a", ".lora_b"
LEVELS = 127
REQUIRED = ("base_sha256", "rank", "seed", "training_log_sha256")
"""Metadata that a delta must name beside its format, version and own hash."""


@dataclass(frozen=True)
class Delta:
    """A delta file's content."""

    state: dict[str, Tensor]
    """Name -> float32 tensor, as `unpack` gives them."""
    metadata: dict[str, str]
    """`base_sha256`, `rank`, `seed`, `training_log_sha256`, and what else the writer noted."""
    sha256: str
    """Hash of tensors and metadata, hex."""


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


def unpack(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float32 tensors of a packed delta; kernels stay flat.

    Raises:
        ModelError: a matrix without its scales, scales without a matrix, or an unexpected type.
    """
    state: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        scale = packed.get(name + SCALE)
        if name.endswith(SCALE):
            fine = name.removesuffix(SCALE) in packed
        elif tensor.ndim == 1:
            fine = tensor.dtype == torch.half and scale is None
        else:
            fine = (
                tensor.dtype == torch.int8
                and tensor.ndim == 2
                and scale is not None
                and scale.dtype == torch.half
                and scale.shape == tensor.shape[:1]
            )
        if not fine:
            raise ModelError(
                f"delta: {name!r} ({tensor.dtype}, {list(tensor.shape)}) is neither a float16 vector nor an int8 "
                f"matrix with one float16 scale a row"
            )
        if not name.endswith(SCALE):
            state[name] = tensor.float() if scale is None else tensor.float() * scale.float()[:, None]
    return state


def truncate(state: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The same state with each low-rank pair replaced by its best approximation of a lower rank (SVD).

    Pairs of this rank or less are left alone, and so is everything that is no pair.

    Raises:
        ModelError: half of a pair is missing, or its halves do not fit.
    """
    made = dict(state)
    for module, (a, b) in pairs(state).items():
        if a.shape[0] <= rank:
            continue
        # the product of the two QR factors is small, so no matrix of the weight's size is decomposed
        left, right = torch.linalg.qr(b.double()), torch.linalg.qr(a.double().T)
        u, s, v = torch.linalg.svd(left.R @ right.R.T)
        root = s[:rank].sqrt()
        made[module + LORA_B] = ((left.Q @ u[:, :rank]) * root).to(b.dtype)
        made[module + LORA_A] = (root[:, None] * (right.Q @ v[:rank].T).T).to(a.dtype)
    return made


def pairs(state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Module -> its `lora_a` `[rank, in]` and `lora_b` `[out, rank]`.

    Raises:
        ModelError: half of a pair is missing, or its halves do not fit.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    modules = {name.removesuffix(end) for name in state for end in (LORA_A, LORA_B) if name.endswith(end)}
    for module in sorted(modules):
        a, b = state.get(module + LORA_A), state.get(module + LORA_B)
        if a is None or b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            shapes = [None if half is None else list(half.shape) for half in (a, b)]
            raise ModelError(
                f"delta: {module} needs lora_a [rank, in] and lora_b [out, rank], found {shapes}"
            )
        found[module] = a, b
    return found


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
    facts["sha256"] = _content_sha256(packed, facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        save_file(packed, partial, metadata=facts)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return facts["sha256"]


def load_delta(path: Path) -> Delta:
    """Read and verify a file written by `save_delta`.

    Raises:
        ModelError: no such file, damaged, changed after it was written, or no delta of this version.
    """
    if not path.is_file():
        raise ModelError(f"no delta at {path}: reinstall the package, or train one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            if metadata.get("format") != FORMAT or metadata.get("version") != str(VERSION):
                raise ModelError(
                    f"{path} is not a delta this version reads: format {metadata.get('format')!r}, version "
                    f"{metadata.get('version')!r}; expected {FORMAT!r}, version {VERSION}"
                )
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged or not a delta: {error}; reinstall the package") from error
    recorded = metadata.pop("sha256", "")
    if _content_sha256(packed, metadata) != recorded:
        raise ModelError(
            f"{path} does not match its own hash: it was changed after it was written; reinstall"
        )
    facts = {name: value for name, value in metadata.items() if name not in ("format", "version")}
    return Delta(unpack(packed), facts, recorded)


def _content_sha256(packed: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(packed):
        tensor = packed[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
