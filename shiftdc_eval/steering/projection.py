"""Projections onto a safety direction (arXiv 2502.13095, Eq. 6)."""

from __future__ import annotations

import torch
from torch import Tensor


def safety_coordinate(activation: Tensor, direction: Tensor) -> Tensor:
    """Coordinate `(x.s / ||s||^2)` of activations along a direction; positive points towards "safe".

    Args:
        activation: `[..., hidden]`.
        direction: `[..., hidden]`, broadcast against `activation`; a zero direction gives coordinate 0.

    Returns:
        `[...]`, in float32 or wider.
    """
    x = activation.to(torch.promote_types(activation.dtype, torch.float32))
    s = direction.to(device=x.device, dtype=x.dtype)
    squared = (s * s).sum(-1)
    return torch.where(squared > 0, (x * s).sum(-1) / squared.clamp_min(torch.finfo(x.dtype).tiny), 0.0)


def safety_component(shift: Tensor, direction: Tensor, *, one_sided: bool = False) -> Tensor:
    """The part of a modality shift that lies along the safety direction: `(m.s / ||s||^2) s` (Eq. 6).

    Args:
        shift: `[..., hidden]`.
        direction: `[..., hidden]`, broadcast against `shift`.
        one_sided: keep only a shift towards "safe" (positive coordinate); one towards "unsafe" gives 0.

    Returns:
        `[..., hidden]`, in float32 or wider.
    """
    coordinate = safety_coordinate(shift, direction)
    if one_sided:
        coordinate = coordinate.clamp_min(0)
    return coordinate.unsqueeze(-1) * direction.to(device=coordinate.device, dtype=coordinate.dtype)
