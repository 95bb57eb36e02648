"""Qwen-VL (Qwen/Qwen-VL-Chat, arXiv 2308.12966): ViT-bigG, one cross-attention layer with 256 queries, Qwen-7B.

The published remote code does not run on transformers 5. The vision side below keeps the published names and
the published order of its fused weights; the language model equals transformers' Qwen2 with as many key heads
as query heads (its conversion splits the fused weights). Two rules of the published code that act only on
more than 2048 tokens (dynamic NTK, log-n attention) are left out.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, LlavaConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from shiftdc_eval.backbones.native.conversion import CONVERSION
from shiftdc_eval.backbones.native.query_vlm import QueryForConditionalGeneration, QueryModel

EPS = 1e-6


class QwenVLVisionConfig(PreTrainedConfig):  # type: ignore[misc]
    """Sizes of the vision side; the defaults are the published ones."""

    model_type = "shiftdc_qwen_vl_vision"
    base_config_key = "vision_config"

    hidden_size: int = 1664
    num_hidden_layers: int = 48
    num_attention_heads: int = 16
    intermediate_size: int = 8192
    image_size: int = 448
    patch_size: int = 14
    output_dim: int = 4096
    pool_heads: int = 32
    queries: int = 256
    hidden_act: str = "gelu"


class QwenVLConfig(LlavaConfig):  # type: ignore[misc]
    """Sizes of the vision side and the language model."""

    model_type = "shiftdc_qwen_vl"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "vision_config": SubConfigSpec(config_class=QwenVLVisionConfig),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen2"),
    }

    conversion: int = CONVERSION


def stretched(positions: Tensor, tokens: int) -> Tensor:
    """A square table of positions `[n, width]`, stretched to `[tokens, width]` by bicubic interpolation."""
    side, wanted = math.isqrt(len(positions)), math.isqrt(tokens)
    if side == wanted:
        return positions
    table = positions.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    table = functional.interpolate(table, size=(wanted, wanted), mode="bicubic", align_corners=False)
    return table.permute(0, 2, 3, 1).reshape(tokens, -1).to(positions.dtype)


class _Attention(nn.Module):
    """Self-attention; the fused projection holds query, key and value head by head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        mixed = self.in_proj(x).view(batch, tokens, self.heads, 3 * width // self.heads).transpose(1, 2)
        query, key, value = mixed.chunk(3, dim=-1)
        out = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.out_proj(out.transpose(1, 2).reshape(batch, tokens, width))
        return projected


class _Block(nn.Module):
    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.ln_1 = nn.LayerNorm(width, eps=EPS)
        self.attn = _Attention(width, config.num_attention_heads)
        self.ln_2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, config.intermediate_size),
                gelu=nn.GELU(),
                c_proj=nn.Linear(config.intermediate_size, width),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class _Resampler(nn.Module):
    """One cross-attention layer: learned queries read the patches, both with two-dimensional positions."""

    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        width = config.output_dim
        self.pos_embed = nn.Parameter(torch.zeros(config.queries, width))
        self.query = nn.Parameter(torch.zeros(config.queries, width))
        self.kv_proj = (
            nn.Linear(config.hidden_size, width, bias=False) if config.hidden_size != width else nn.Identity()
        )
        self.attn = nn.MultiheadAttention(width, config.pool_heads, batch_first=True)
        self.ln_q = nn.LayerNorm(width, eps=EPS)
        self.ln_kv = nn.LayerNorm(width, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        value = self.ln_kv(self.kv_proj(x))
        key = value + stretched(self.pos_embed, x.shape[1])
        query = (self.ln_q(self.query) + self.pos_embed).expand(len(x), -1, -1)
        out: Tensor = self.attn(query, key, value, need_weights=False)[0]
        return out


class _Transformer(nn.Module):
    def __init__(self, config: QwenVLVisionConfig) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(config) for _ in range(config.num_hidden_layers))


class QwenVLVision(nn.Module):
    """Vision transformer and resampler, under the published names."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        vision = config.vision_config
        width = vision.hidden_size
        self.conv1 = nn.Conv2d(3, width, vision.patch_size, stride=vision.patch_size, bias=False)
        self.positional_embedding = nn.Parameter(torch.zeros(256, width))
        self.ln_pre = nn.LayerNorm(width, eps=EPS)
        self.transformer = _Transformer(vision)
        self.attn_pool = _Resampler(vision)
        self.ln_post = nn.LayerNorm(vision.output_dim, eps=EPS)
        self.proj = nn.Parameter(torch.zeros(vision.output_dim, vision.output_dim))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """`[images, 3, side, side]` to `[images, queries, hidden]`."""
        x = self.conv1(pixel_values).flatten(2).transpose(1, 2)
        x = self.ln_pre(x + stretched(self.positional_embedding, x.shape[1]))
        for block in self.transformer.resblocks:
            x = block(x)
        out: Tensor = self.ln_post(self.attn_pool(x)) @ self.proj
        return out


class QwenVLModel(QueryModel):
    """Decoder with Qwen-VL's vision side."""

    vision_class = QwenVLVision


class QwenVLForConditionalGeneration(QueryForConditionalGeneration):
    """Qwen-VL."""

    config_class = QwenVLConfig
    model_class = QwenVLModel
