"""Layers as functions of their weights, and weights with a low-rank difference that is learned.

Written out because training compiles each layer by itself and captures whole steps as CUDA graphs; they compute what
transformers' Llama and CLIP layers do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

NAMES = (*(f"self_attn.{n}_proj" for n in "qkvo"), *(f"mlp.{n}_proj" for n in ("gate", "up", "down")))
"""The matrices of a decoder layer, in the order in which `block` takes them."""
TOWER_NAMES = (
    "layer_norm1",
    *(f"self_attn.{n}_proj" for n in ("q", "k", "v", "out")),
    "layer_norm2",
    "mlp.fc1",
    "mlp.fc2",
)
"""The modules of a layer of the vision tower, in the order in which `tower_block` takes their weights and biases."""


class LowRank(torch.nn.Module):
    """A frozen weight `[out, in]` and the low-rank difference to it that is learned: `W + b a`."""

    def __init__(self, weight: Tensor, rank: int, draws: torch.Generator) -> None:
        super().__init__()
        out, into = weight.shape
        self.weight: Tensor
        self.register_buffer("weight", weight.detach().clone(), persistent=False)
        start = torch.randn(rank, into, generator=draws) / math.sqrt(into)
        self.a = torch.nn.Parameter(start.to(weight.device))
        self.b = torch.nn.Parameter(torch.zeros(out, rank, device=weight.device))

    def full(self, dtype: torch.dtype) -> Tensor:
        """The weight with its difference, `[out, in]`."""
        return (self.weight + self.b @ self.a).to(dtype)


def block(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    norms: Sequence[Tensor],
    w: Sequence[Tensor],
    heads: int,
    kv: int,
    eps: float,
) -> Tensor:
    """One decoder layer of Llama, causal; gives `[batch, length, hidden]`.

    Args:
        x: `[batch, length, hidden]`.
        cos: rotary cosines, `[length, head]`; `sin` likewise.
        norms: weights of the two norms.
        w: the seven matrices of `NAMES`.
        heads: attention heads.
        kv: key-value heads.
        eps: of the norms.
    """
    batch, length, _ = x.shape

    def normed(h: Tensor, weight: Tensor) -> Tensor:
        f = h.float()
        return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + eps)).to(h.dtype) * weight

    def turned(h: Tensor) -> Tensor:
        half = h.shape[-1] // 2
        return h * cos + torch.cat((-h[..., half:], h[..., :half]), dim=-1) * sin

    h = normed(x, norms[0])
    q, k, v = (
        functional.linear(h, m).view(batch, length, n, -1).transpose(1, 2)
        for m, n in zip(w[:3], (heads, kv, kv), strict=True)
    )
    k, v = (t.repeat_interleave(heads // kv, dim=1) for t in (turned(k), v))
    seen = functional.scaled_dot_product_attention(turned(q), k, v, is_causal=True)
    x = x + functional.linear(seen.transpose(1, 2).reshape(batch, length, -1), w[3])
    h = normed(x, norms[1])
    gate = functional.silu(functional.linear(h, w[4]))
    return x + functional.linear(gate * functional.linear(h, w[5]), w[6])


def tower_block(
    x: Tensor, w: Sequence[Tensor], b: Sequence[Tensor], heads: int, eps: float, dtype: torch.dtype
) -> Tensor:
    """One layer of CLIP's vision tower with its quick GELU; gives `[batch, patches, width]`, 32 bit.

    Args:
        x: `[batch, patches, width]`, 32 bit.
        w: weights of the modules of `TOWER_NAMES`, 32 bit; `b` their biases.
        heads: attention heads.
        eps: of the norms.
        dtype: in which matrices are multiplied.
    """
    batch, length, width = x.shape

    def linear(h: Tensor, i: int) -> Tensor:
        return functional.linear(h, w[i].to(dtype), b[i].to(dtype))

    def normed(h: Tensor, i: int) -> Tensor:
        return functional.layer_norm(h, (width,), w[i], b[i], eps).to(dtype)

    h = normed(x, 0)
    q, k, v = (linear(h, i).view(batch, length, heads, -1).transpose(1, 2) for i in (1, 2, 3))
    seen = functional.scaled_dot_product_attention(q, k, v)
    x = x + linear(seen.transpose(1, 2).reshape(batch, length, width), 4)
    h = linear(normed(x, 5), 6)
    return x + linear(h * torch.sigmoid(1.702 * h), 7)
