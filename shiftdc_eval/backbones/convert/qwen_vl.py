"""Qwen-VL and Qwen-VL-Chat from their published layout (remote code of their own) to our native class."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, Qwen2Config

from shiftdc_eval.backbones.convert.checkpoint import (
    Report,
    Routed,
    Source,
    Unused,
    checkpoint_files,
    source_folder,
    write_model,
)
from shiftdc_eval.backbones.convert.llama import query_processor, read_json
from shiftdc_eval.backbones.convert.qwen_tokenizer import qwen_tokenizer
from shiftdc_eval.backbones.native.qwen_vl import (
    QwenVLConfig,
    QwenVLForConditionalGeneration,
    QwenVLVisionConfig,
)
from shiftdc_eval.core.errors import ModelError

PATTERNS = ("*.json", "*.safetensors", "*.bin", "qwen.tiktoken")
IMAGE_TOKEN = "<imgpad>"  # noqa: S105 -- not a password
LAYER = re.compile(r"transformer\.h\.(\d+)\.(.+)")
RENAMED = {
    "ln_1.weight": "input_layernorm.weight",
    "ln_2.weight": "post_attention_layernorm.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
    # the published feed-forward is w1(x) * silu(w2(x)): the second matrix is the gate
    "mlp.w1.weight": "mlp.up_proj.weight",
    "mlp.w2.weight": "mlp.gate_proj.weight",
    "mlp.c_proj.weight": "mlp.down_proj.weight",
}
"""Key inside a published layer -> key inside a Qwen2 layer."""


def convert_qwen_vl(source: str, destination: Path) -> Report:
    """Write Qwen-VL for our native class, with tokenizer, processor and template.

    Args:
        source: folder or hub id of the published checkpoint.
        destination: existing folder to write into.

    Raises:
        ModelError: a part is missing, is of another kind, or does not fit by shape.
    """
    folder = source_folder(source, PATTERNS)
    original = read_json(folder / "config.json")
    if original.get("model_type") != "qwen" or "visual" not in original:
        raise ModelError(f"{source} is not Qwen-VL: config.json has no `visual` part of model type qwen")
    tokenizer = qwen_tokenizer(folder / "qwen.tiktoken")
    start = original["visual"].get("image_start_id")
    if start is not None and tokenizer.convert_tokens_to_ids("<img>") != start:
        raise ModelError(
            f"{source} has image_start_id={start}, its tokenizer gives {tokenizer.convert_tokens_to_ids('<img>')}"
        )
    report = Report()
    config = _config(original, tokenizer)
    sources = [Source(checkpoint_files(folder), _router(config))]
    write_model(QwenVLForConditionalGeneration, config, sources, destination, report)
    report.notes.append("dynamic NTK and log-n attention, which act above 2048 tokens, are left out")
    ends = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
    GenerationConfig(
        eos_token_id=[tokenizer.convert_tokens_to_ids(end) for end in ends],
        pad_token_id=tokenizer.pad_token_id,
    ).save_pretrained(destination)
    vision = config.vision_config
    query_processor(
        tokenizer,
        side=vision.image_size,
        queries=vision.queries,
        template="qwen_vl",
        image_token=IMAGE_TOKEN,
    ).save_pretrained(destination)
    return report


def _config(original: dict[str, Any], tokenizer: Any) -> QwenVLConfig:
    seen, hidden = original["visual"], original["hidden_size"]
    vision = QwenVLVisionConfig(
        hidden_size=seen["width"],
        num_hidden_layers=seen["layers"],
        num_attention_heads=seen["heads"],
        intermediate_size=int(seen["width"] * seen["mlp_ratio"]),
        image_size=seen["image_size"],
        patch_size=seen["patch_size"],
        output_dim=seen["output_dim"],
        pool_heads=max(1, seen["output_dim"] // 128),
        queries=seen.get("n_queries", 256),
    )
    text = Qwen2Config(
        vocab_size=original["vocab_size"],
        hidden_size=hidden,
        # the published number counts both halves of the gated feed-forward
        intermediate_size=original["intermediate_size"] // 2,
        num_hidden_layers=original["num_hidden_layers"],
        num_attention_heads=original["num_attention_heads"],
        num_key_value_heads=original["num_attention_heads"],
        rms_norm_eps=original["layer_norm_epsilon"],
        rope_theta=original.get("rotary_emb_base", 10000),
        max_position_embeddings=original.get("max_position_embeddings", 8192),
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return QwenVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=vision.queries,
        dtype=original.get("torch_dtype", "bfloat16"),
    )


def _router(config: QwenVLConfig) -> Callable[[str, Tensor], Routed]:
    def route(key: str, tensor: Tensor) -> Routed:
        if key == "lm_head.weight":
            return [(key, tensor)]
        if key == "transformer.wte.weight":
            return [("model.language_model.embed_tokens.weight", tensor)]
        if key == "transformer.ln_f.weight":
            return [("model.language_model.norm.weight", tensor)]
        if key.startswith("transformer.visual."):
            return [(f"model.vision_tower.{key.removeprefix('transformer.visual.')}", tensor)]
        if key.endswith(("rotary_emb.inv_freq", "attn.masked_bias", "attn.logn_tensor")):
            return Unused("computed from the configuration")
        if not (match := LAYER.fullmatch(key)):
            return None
        layer = f"model.language_model.layers.{match[1]}."
        if fused := re.fullmatch(r"attn\.c_attn\.(weight|bias)", match[2]):
            thirds = torch.split(tensor, config.text_config.hidden_size)
            names = [f"{layer}self_attn.{name}_proj.{fused[1]}" for name in "qkv"]
            return list(zip(names, thirds, strict=True))
        return [(layer + RENAMED[match[2]], tensor)] if match[2] in RENAMED else None

    return route
