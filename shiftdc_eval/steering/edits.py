"""What is done to activations at one decoder layer.

An edit is a function from `[batch, hidden]` (one token) or `[batch, tokens, hidden]` to the same shape; a mapping
from layer index to edit is what `edit_tokens` applies. Edits compute in float32 and return the dtype they were given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from shiftdc_eval.steering.projection import safety_component, safety_coordinate

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class OnlineCalibration:
    """Subtract the safety component of (current - text-only) activation (Eq. 5-7, read online).

    The current activation is already calibrated at the layers below, so with alpha 1 the safety
    coordinate equals that of the text-only run exactly at every edited layer.
    """

    text_only: Tensor
    """Activations of the text-only counterparts at this layer, `[batch, hidden]`."""
    direction: Tensor
    """Safety direction at this layer, `[hidden]`."""
    alpha: float = 1.0
    """Strength; 0 changes nothing, 1 is the paper's method."""
    one_sided: bool = False
    """Remove only a shift towards "safe"."""
    keep_norm: bool = False
    """Turn the activation to the same coordinate instead: what lies off the direction is rescaled."""

    def __call__(self, activation: Tensor) -> Tensor:
        x = activation.to(torch.promote_types(activation.dtype, torch.float32))
        shift = x - self.text_only.to(device=x.device, dtype=x.dtype)
        component = safety_component(shift, self.direction, one_sided=self.one_sided)
        moved = x - self.alpha * component
        return (turned(x, moved, self.direction) if self.keep_norm else moved).to(activation.dtype)


def turned(x: Tensor, moved: Tensor, direction: Tensor) -> Tensor:
    """`x`, turned in its plane with the direction until its coordinate is that of `moved`.

    The norm stays; a coordinate that is longer than it is cut to it. An activation along the direction has no such
    plane, and none of it is left where the coordinate is shorter than the norm.

    Args:
        x, moved: `[..., hidden]`.
        direction: `[hidden]`.
    """
    s = direction.to(device=x.device, dtype=x.dtype)
    unit = s / s.norm().clamp_min(torch.finfo(x.dtype).tiny)
    norm, before = x.norm(dim=-1), x @ unit
    after = (moved @ unit).clamp(-norm, norm)
    off, wanted = norm.square() - before.square(), norm.square() - after.square()
    scale = torch.where(off > 0, (wanted / off).clamp_min(0).sqrt(), 1.0)
    rest = x - before.unsqueeze(-1) * unit
    found: Tensor = x + (after - before).unsqueeze(-1) * unit + (scale - 1).unsqueeze(-1) * rest
    return found


@dataclass(frozen=True)
class SubspaceReplacement:
    """Replace the part of an activation that lies in a subspace by `alpha` times the text-only run's part.

    `x - (x - alpha * t) V^T V`: with one basis vector and alpha 1 this is `OnlineCalibration`.
    """

    text_only: Tensor
    """Activations `t` of the text-only counterparts at this layer, `[batch, hidden]`."""
    basis: Tensor
    """`V`, `[rank, hidden]`, orthonormal rows; the first points towards "unsafe"."""
    alpha: float = 1.0
    """Share of the text-only part that is put in; 0 leaves the projection alone."""
    gated: bool = False
    """Edit only the rows whose text-only activation has a positive first coordinate."""

    def __call__(self, activation: Tensor) -> Tensor:
        x = activation.to(torch.promote_types(activation.dtype, torch.float32))
        text, basis = (part.to(device=x.device, dtype=x.dtype) for part in (self.text_only, self.basis))
        change = (x - self.alpha * text) @ basis.T @ basis
        if self.gated:
            change = change * (text @ basis[0] > 0).unsqueeze(-1)
        return (x - change).to(activation.dtype)


@dataclass(frozen=True)
class Shift:
    """Add a fixed vector: `x + vector` (`paper`, `official`, CMRM: the negative of a measured shift)."""

    vector: Tensor
    """`[batch, hidden]` for one token per row, `[hidden]` for any number of tokens."""

    def __call__(self, activation: Tensor) -> Tensor:
        x = activation.to(torch.promote_types(activation.dtype, torch.float32))
        return (x + self.vector.to(device=x.device, dtype=x.dtype)).to(activation.dtype)


@dataclass(frozen=True)
class AdaptiveShift:
    """Move the coordinate along a direction to a target, only where it lies on the wrong side of it.

    With `s` = safe minus unsafe, coordinates above `target` are lowered to it by `alpha`; others are
    left alone. A rule of ours: ASTRA's is `CosineGated`.
    """

    direction: Tensor
    """`[hidden]`."""
    target: float
    """Coordinate to reach, in units of the direction's own length."""
    alpha: float = 1.0
    """Share of the excess that is removed."""

    def __call__(self, activation: Tensor) -> Tensor:
        x = activation.to(torch.promote_types(activation.dtype, torch.float32))
        s = self.direction.to(device=x.device, dtype=x.dtype)
        excess = (safety_coordinate(x, s) - self.target).clamp_min(0)
        return (x - self.alpha * excess.unsqueeze(-1) * s).to(activation.dtype)


@dataclass(frozen=True)
class PrototypePush:
    """Push activations along the prototypes that they resemble, by their resemblance (RAI, arXiv 2602.03402).

    `h + strength * sum_k cos(h, u_k) u_k / |u_k|` over the prototypes `u_k` with `cos(h, u_k) > tau`.
    """

    prototypes: Tensor
    """`[prototypes, hidden]`; their lengths do not matter."""
    tau: float
    """Cosine above which a prototype counts."""
    strength: float = 1.0
    """0 changes nothing."""

    def cosines(self, activation: Tensor) -> Tensor:
        """`[..., prototypes]`, at least in float32."""
        x = activation.to(torch.promote_types(activation.dtype, torch.float32))
        return functional.normalize(x, dim=-1) @ self._unit(x).T

    def __call__(self, activation: Tensor) -> Tensor:
        x = activation.to(torch.promote_types(activation.dtype, torch.float32))
        cosines = self.cosines(x)
        pushed = cosines.where(cosines > self.tau, 0.0) @ self._unit(x)
        return (x + self.strength * pushed).to(activation.dtype)

    def _unit(self, like: Tensor) -> Tensor:
        return functional.normalize(self.prototypes.to(like), dim=-1)


@dataclass(frozen=True)
class CosineGated:
    """Move away from a direction by a share of the activation's own norm, gated by a cosine (arXiv 2411.16721).

    `x - alpha * clamp(cos(x - centre, v), 0, 1) * ||x|| * v / ||v||`. The authors' code (ASTRAL-Group/ASTRA 54df103)
    takes the norms over the whole batch and runs for one row alone; here each row has its own.
    """

    direction: Tensor
    """`v`, `[hidden]`."""
    centre: Tensor
    """What the activation is compared from, `[hidden]`."""
    alpha: float

    def __call__(self, activation: Tensor) -> Tensor:
        x = activation.to(torch.promote_types(activation.dtype, torch.float32))
        v, centre = (part.to(device=x.device, dtype=x.dtype) for part in (self.direction, self.centre))
        gate = torch.cosine_similarity(x - centre, v, dim=-1).clamp(0, 1)
        moved: Tensor = x - (self.alpha * gate * x.norm(dim=-1)).unsqueeze(-1) * v / v.norm()
        return moved.to(activation.dtype)


@dataclass(frozen=True)
class TrustRegionShift:
    """Move along a direction by a share of the coordinate itself, and not past the unsafe centroid.

    With `a = (x - centre).r / ||r||^2`, -1/2 at the safe and +1/2 at the unsafe centroid: `x + step r`, where `step` is
    `alpha max(a, 0)` (opens on the unsafe side) or `alpha max(-a, 0)` (on the safe one), cut so that `a + step <= 1/2`.
    """

    direction: Tensor
    """`r`, unsafe minus safe centroid, `[hidden]`."""
    centre: Tensor
    """Midway between the centroids, shifted as the activations are, `[hidden]`."""
    alpha: float = 1.0
    safe_side: bool = False
    """Whether the gate opens on the safe side."""

    def __call__(self, activation: Tensor) -> Tensor:
        x = activation.to(torch.promote_types(activation.dtype, torch.float32))
        r, centre = (part.to(device=x.device, dtype=x.dtype) for part in (self.direction, self.centre))
        coordinate = safety_coordinate(x - centre, r)
        wanted = self.alpha * (-coordinate if self.safe_side else coordinate).clamp_min(0)
        step = torch.minimum(wanted, (0.5 - coordinate).clamp_min(0))
        return (x + step.unsqueeze(-1) * r).to(activation.dtype)
