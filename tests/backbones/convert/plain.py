"""Independent plain implementations of published blocks, written from their equations: no transformers in here.

Weights are dictionaries of tensors under their published names; everything is one sample, float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def sub(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """The weights below a prefix, in float64."""
    return {k[len(prefix) :]: v.double() for k, v in weights.items() if k.startswith(prefix)}


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    y = torch.einsum("ti,oi->to", x, w[f"{name}.weight"])
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def layer_norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, *, causal: bool = False) -> Tensor:
    """Multi-head attention over `[tokens, width]`; fewer key heads than query heads are shared in groups."""
    size = q.shape[-1] // heads
    shared = heads // (k.shape[-1] // size)
    out = []
    for head in range(heads):
        mine = slice(head * size, (head + 1) * size)
        group = slice(head // shared * size, (head // shared + 1) * size)
        scores = q[:, mine] @ k[:, group].T / math.sqrt(size)
        if causal:
            for row in range(len(scores)):
                scores[row, row + 1 + len(k) - len(q) :] = -torch.inf
        out.append(torch.softmax(scores, -1) @ v[:, group])
    return torch.cat(out, -1)


def rotate(x: Tensor, heads: int, theta: float) -> Tensor:
    """Rotary positions 0, 1, ... over `[tokens, heads * size]`, pairs (i, i + size / 2)."""
    size = x.shape[-1] // heads
    out = x.clone()
    for position in range(len(x)):
        for head in range(heads):
            for i in range(size // 2):
                angle = position * theta ** (-2 * i / size)
                a, b = head * size + i, head * size + i + size // 2
                one, two = x[position, a], x[position, b]
                out[position, a] = one * math.cos(angle) - two * math.sin(angle)
                out[position, b] = two * math.cos(angle) + one * math.sin(angle)
    return out


def patches(image: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Non-overlapping convolution: `[3, side, side]` to `[patches, width]`, rows first."""
    size = kernel.shape[-1]
    rows = []
    for top in range(0, image.shape[1], size):
        for left in range(0, image.shape[2], size):
            piece = image[:, top : top + size, left : left + size].double()
            rows.append((kernel.double() * piece).sum((1, 2, 3)))
    out = torch.stack(rows)
    return out if bias is None else out + bias.double()


def clip_features(w: Weights, image: Tensor, *, heads: int, blocks: int) -> Tensor:
    """Patch features `[patches, width]` after `blocks` transformer blocks of a CLIP vision tower."""
    x = patches(image, w["embeddings.patch_embedding.weight"])
    x = torch.cat([w["embeddings.class_embedding"][None], x]) + w["embeddings.position_embedding.weight"]
    x = layer_norm(x, w, "pre_layrnorm", 1e-5)
    for block in range(blocks):
        b = sub(w, f"encoder.layers.{block}.")
        y = layer_norm(x, b, "layer_norm1", 1e-5)
        y = attend(*(linear(y, b, f"self_attn.{n}_proj") for n in "qkv"), heads)
        x = x + linear(y, b, "self_attn.out_proj")
        y = linear(layer_norm(x, b, "layer_norm2", 1e-5), b, "mlp.fc1")
        x = x + linear(y * torch.sigmoid(1.702 * y), b, "mlp.fc2")
    return x[1:]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def llama_logits(
    w: Weights,
    x: Tensor,
    head: Tensor,
    *,
    layers: int,
    heads: int,
    key_value_heads: int,
    theta: float,
    eps: float,
) -> Tensor:
    """Logits `[tokens, vocabulary]` of a Llama from its input embeddings `[tokens, width]`."""
    x = x.double()
    for layer in range(layers):
        b = sub(w, f"layers.{layer}.")
        y = rms_norm(x, b["input_layernorm.weight"], eps)
        q = rotate(linear(y, b, "self_attn.q_proj"), heads, theta)
        k = rotate(linear(y, b, "self_attn.k_proj"), key_value_heads, theta)
        y = attend(q, k, linear(y, b, "self_attn.v_proj"), heads, causal=True)
        x = x + linear(y, b, "self_attn.o_proj")
        y = rms_norm(x, b["post_attention_layernorm.weight"], eps)
        gate = linear(y, b, "mlp.gate_proj")
        x = x + linear(gate * torch.sigmoid(gate) * linear(y, b, "mlp.up_proj"), b, "mlp.down_proj")
    return rms_norm(x, w["norm.weight"].double(), eps) @ head.double().T


def eva_features(w: Weights, image: Tensor, *, heads: int, blocks: int) -> Tensor:
    """Features `[1 + patches, width]` of BLIP-2's vision tower, its final norm included."""
    x = patches(image, w["embeddings.patch_embedding.weight"], w["embeddings.patch_embedding.bias"])
    x = torch.cat([w["embeddings.class_embedding"][0], x]) + w["embeddings.position_embedding"][0]
    for block in range(blocks):
        b = sub(w, f"encoder.layers.{block}.")
        y = linear(layer_norm(x, b, "layer_norm1", 1e-6), b, "self_attn.qkv")
        width = y.shape[-1] // 3
        y = attend(y[:, :width], y[:, width : 2 * width], y[:, 2 * width :], heads)
        x = x + linear(y, b, "self_attn.projection")
        y = gelu(linear(layer_norm(x, b, "layer_norm2", 1e-6), b, "mlp.fc1"))
        x = x + linear(y, b, "mlp.fc2")
    return layer_norm(
        x, w, "post_layernorm", 1e-5
    )  # `ln_vision` of MiniGPT-4's base_model.py: torch's default


def qformer(w: Weights, queries: Tensor, seen: Tensor, *, heads: int, layers: int, every: int) -> Tensor:
    """BERT layers over the queries, cross-attention to what was seen in every `every`-th; norms come after."""
    eps = 1e-12
    x = layer_norm(queries.double(), w, "layernorm", eps)
    for layer in range(layers):
        b = sub(w, f"encoder.layer.{layer}.")
        for name, other in (("attention", None), ("crossattention", seen)):
            if name == "crossattention" and layer % every:
                continue
            source = x if other is None else other
            y = attend(
                linear(x, b, f"{name}.attention.query"),
                linear(source, b, f"{name}.attention.key"),
                linear(source, b, f"{name}.attention.value"),
                heads,
            )
            x = layer_norm(x + linear(y, b, f"{name}.output.dense"), b, f"{name}.output.LayerNorm", eps)
        y = gelu(linear(x, b, "intermediate_query.dense"))
        x = layer_norm(x + linear(y, b, "output_query.dense"), b, "output_query.LayerNorm", eps)
    return x


def cubic(t: float) -> float:
    """Keys' cubic kernel with a = -0.75, which bicubic interpolation in torch uses."""
    t, a = abs(t), -0.75
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def stretch(table: Tensor, tokens: int) -> Tensor:
    """Bicubic interpolation of a square table `[side^2, width]` to `[tokens, width]`, borders repeated."""
    side, wanted = math.isqrt(len(table)), math.isqrt(tokens)
    if side == wanted:
        return table
    rows = torch.zeros(wanted, side, dtype=torch.float64)
    for out in range(wanted):
        centre = (out + 0.5) * side / wanted - 0.5
        for at in range(math.floor(centre) - 1, math.floor(centre) + 3):
            rows[out, min(max(at, 0), side - 1)] += cubic(centre - at)
    square = table.double().reshape(side, side, -1)
    return torch.einsum("ai,bj,ijc->abc", rows, rows, square).reshape(tokens, -1)


def qwen_vl_features(w: Weights, image: Tensor, *, heads: int, blocks: int, pool_heads: int) -> Tensor:
    """Image vectors `[queries, width]` of Qwen-VL's vision side."""
    eps = 1e-6
    x = patches(image, w["conv1.weight"])
    x = layer_norm(x + stretch(w["positional_embedding"], len(x)), w, "ln_pre", eps)
    for block in range(blocks):
        b = sub(w, f"transformer.resblocks.{block}.")
        mixed = linear(layer_norm(x, b, "ln_1", eps), b, "attn.in_proj")
        size = x.shape[-1] // heads
        q, k, v = (
            torch.cat([mixed[:, h * 3 * size + n * size :][:, :size] for h in range(heads)], -1)
            for n in range(3)
        )
        x = x + linear(attend(q, k, v, heads), b, "attn.out_proj")
        x = x + linear(gelu(linear(layer_norm(x, b, "ln_2", eps), b, "mlp.c_fc")), b, "mlp.c_proj")
    p = sub(w, "attn_pool.")
    value = layer_norm(linear(x, p, "kv_proj"), p, "ln_kv", eps)
    key = value + stretch(p["pos_embed"], len(value))
    query = layer_norm(p["query"], p, "ln_q", eps) + p["pos_embed"]
    width = query.shape[-1]
    parts = []
    for n, source in enumerate((query, key, value)):
        rows = slice(n * width, (n + 1) * width)
        parts.append(source @ p["attn.in_proj_weight"][rows].T + p["attn.in_proj_bias"][rows])
    x = linear(attend(*parts, pool_heads), p, "attn.out_proj")
    return layer_norm(x, w, "ln_post", eps) @ w["proj"]


def qwen_logits(
    w: Weights, x: Tensor, head: Tensor, *, layers: int, heads: int, theta: float, eps: float
) -> Tensor:
    """Logits of the published Qwen language model, its fused weights taken apart as published."""
    x = x.double()
    for layer in range(layers):
        b = sub(w, f"h.{layer}.")
        q, k, v = linear(rms_norm(x, b["ln_1.weight"], eps), b, "attn.c_attn").chunk(3, -1)
        y = attend(rotate(q, heads, theta), rotate(k, heads, theta), v, heads, causal=True)
        x = x + linear(y, b, "attn.c_proj")
        y = rms_norm(x, b["ln_2.weight"], eps)
        gate = linear(y, b, "mlp.w2")
        x = x + linear(linear(y, b, "mlp.w1") * gate * torch.sigmoid(gate), b, "mlp.c_proj")
    return rms_norm(x, w["ln_f.weight"].double(), eps) @ head.double().T
