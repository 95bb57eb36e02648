"""The difference between the small research model and its base, in 8 bit.

A delta holds the low-rank pairs of the decoder's linear layers (`<module>.lora_a` `[rank, in]`,
`<module>.lora_b` `[out, rank]`; the merged weight is `base + lora_b @ lora_a`) and the whole vision tower
and projector. On disk a matrix is int8 with one float16 scale a row (`<name>` and `<name>.scale`), a
vector float16; a kernel of more dimensions is stored flat, `[out, rest]`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shiftdc_eval.core.errors import ModelError

FORMAT = "shiftdc-eval smol delta"
VERSION = 1
SCALE = ".scale"
LORA_A, LORA_B = ".lora_a", ".lora_b"


@dataclass(frozen=True)
class Delta:
    """A delta file's content."""

    state: dict[str, Tensor]
    """Name -> float32 tensor, as `unpack` gives them."""
    metadata: dict[str, str]
    """`base_sha256`, `rank`, `seed`, `training_log_sha256`, and what else the writer noted."""
    sha256: str
    """Hash of tensors and metadata, hex."""


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


def load_delta(path: Path) -> Delta:
    """Read and verify a file written by `training.smol.training.delta_file.save_delta`.

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
    if content_sha256(packed, metadata) != recorded:
        raise ModelError(
            f"{path} does not match its own hash: it was changed after it was written; reinstall"
        )
    facts = {name: value for name, value in metadata.items() if name not in ("format", "version")}
    return Delta(unpack(packed), facts, recorded)


def content_sha256(packed: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Hash of tensors and metadata, hex."""
    digest = hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())
    for name in sorted(packed):
        tensor = packed[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
