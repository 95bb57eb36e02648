"""What is done to the last prompt token of requests, layer by layer, as bytes and back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from safetensors.torch import load, save
from torch import Tensor

from shiftdc_eval.steering import (
    AdaptiveShift,
    OnlineCalibration,
    Shift,
    SubspaceReplacement,
    TrustRegionShift,
)
from shiftdc_eval.steering.edits import Edit


@dataclass(frozen=True)
class Plan:
    """The part of an edit that requests share; what is each request's own is stored in the workers under a name."""

    kind: Literal["none", "online", "subspace", "shift", "adaptive", "trust_region"]
    """`online`, `subspace`: against stored activations; `shift`: by a stored vector, or by `vectors`; `none`: nothing
    is edited."""
    layers: tuple[int, ...]
    """Decoder layers that are read or edited."""
    vectors: Tensor | None = None
    """`[layers, hidden]`, float32: directions, or what `shift` adds to every request; `subspace`: `[layers, rank,
    hidden]`; `trust_region`: `[layers, 2, hidden]`, direction and centre."""
    alpha: float = 1.0
    """Strength."""
    one_sided: bool = False
    """`online`: as in `OnlineCalibration`; `subspace`: whether it is gated; `trust_region`: whether the gate
    opens on the safe side."""
    targets: tuple[float, ...] = field(default=())
    """`adaptive`: the coordinate to reach at each layer."""
    keep_norm: bool = False
    """`online`: as in `OnlineCalibration`."""

    def edit(self, at: int, stored: Tensor | None) -> Edit:
        """The edit at the layer `layers[at]` of rows whose own vectors are `stored`, `[rows, hidden]`."""
        vectors = None if self.vectors is None else self.vectors[at]
        if self.kind == "shift":
            shift = stored if vectors is None else vectors
            assert shift is not None
            return Shift(shift)
        assert vectors is not None
        if self.kind == "adaptive":
            return AdaptiveShift(vectors, self.targets[at], self.alpha)
        if self.kind == "trust_region":
            return TrustRegionShift(vectors[0], vectors[1], self.alpha, self.one_sided)
        assert stored is not None
        if self.kind == "subspace":
            return SubspaceReplacement(stored, vectors, self.alpha, self.one_sided)
        return OnlineCalibration(stored, vectors, self.alpha, self.one_sided, self.keep_norm)

    def to(self, device: torch.device) -> Plan:
        """The same plan with its vectors on a device."""
        vectors = None if self.vectors is None else self.vectors.to(device)
        return replace(self, vectors=vectors)

    def packed(self) -> bytes:
        """The plan as bytes."""
        facts = [self.kind, self.layers, self.alpha, self.one_sided, self.targets, self.keep_norm]
        vectors = {} if self.vectors is None else {"vectors": self.vectors.float().cpu().contiguous()}
        head = json.dumps(facts).encode()
        return len(head).to_bytes(4, "big") + head + (save(vectors) if vectors else b"")

    @classmethod
    def unpacked(cls, packed: bytes) -> Plan:
        """The plan that `packed` gave."""
        size = 4 + int.from_bytes(packed[:4], "big")
        kind, layers, alpha, one_sided, targets, keep_norm = json.loads(packed[4:size])
        vectors = load(packed[size:])["vectors"] if len(packed) > size else None
        return cls(kind, tuple(layers), vectors, alpha, one_sided, tuple(targets), keep_norm)

    @property
    def name(self) -> str:
        """The same for equal plans."""
        return hashlib.sha256(self.packed()).hexdigest()[:16]
