"""MiniGPT-4 (Vicuna v0) from its three published parts.

The published checkpoint (Vision-CAIR/MiniGPT-4, `prerained_minigpt4_7b.pth`) holds the linear layer
`llama_proj` alone; vision tower, Q-Former and query tokens are BLIP-2's (flan-t5-xxl), the language model is
Vicuna v0. Prompt form: the authors' in training, `###Human: <Img>...</Img> ... ###Assistant: ` with a blank at its
end, which is a token; an answer ends before `###`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from shiftdc_eval.backbones.convert.checkpoint import (
    Report,
    Routed,
    Source,
    Unused,
    checkpoint_files,
    source_folder,
    write_model,
)
from shiftdc_eval.backbones.convert.llama import (
    IMAGE_TOKEN,
    query_processor,
    read_json,
    route_llama,
    save_generation,
    text_config,
    with_image_token,
)
from shiftdc_eval.backbones.native.minigpt4 import MiniGPT4Config, MiniGPT4ForConditionalGeneration
from shiftdc_eval.core.errors import ModelError

BLIP2 = "Salesforce/blip2-flan-t5-xxl"
PATTERNS = ("*.json", "*.safetensors", "*.bin", "tokenizer.model")
STOP = "###"
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
VISION = (*SIZES, "image_size", "patch_size", "layer_norm_eps", "qkv_bias")
QFORMER = (*SIZES, "layer_norm_eps", "cross_attention_frequency", "encoder_hidden_size")


def convert_minigpt4(linear: str, destination: Path, *, vicuna: str, blip2: str = BLIP2) -> Report:
    """Assemble MiniGPT-4.

    Args:
        linear: the published MiniGPT-4 checkpoint, one file.
        destination: existing folder to write into.
        vicuna: folder or hub id of Vicuna v0 in transformers' layout (its delta applied).
        blip2: folder or hub id of BLIP-2 in transformers' layout.

    Raises:
        ModelError: a part is missing or does not fit by shape.
    """
    if not Path(linear).is_file():
        raise ModelError(f"{linear} is not a file; give the published MiniGPT-4 checkpoint (*.pth)")
    language, eyes = source_folder(vicuna, PATTERNS), source_folder(blip2, PATTERNS)
    original, seen = read_json(language / "config.json"), read_json(eyes / "config.json")
    if seen.get("model_type") != "blip-2":
        raise ModelError(f"{blip2} is a {seen.get('model_type')}, not BLIP-2")
    report = Report()
    tokenizer, vocabulary = with_image_token(language, int(original["vocab_size"]), report)
    config = MiniGPT4Config(
        vision_config=_chosen(seen.get("vision_config"), VISION),
        qformer_config=_chosen(seen.get("qformer_config"), QFORMER),
        text_config=text_config(original, vocabulary, tokenizer),
        num_query_tokens=seen.get("num_query_tokens", 32),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=seen.get("num_query_tokens", 32),
        dtype=original.get("torch_dtype", "float16"),
    )
    sources = [
        Source(checkpoint_files(eyes), route_blip2),
        Source(checkpoint_files(language), lambda key, tensor: route_llama(key, tensor, vocabulary)),
        Source([Path(linear)], route_linear, inside=("model",)),
    ]
    write_model(MiniGPT4ForConditionalGeneration, config, sources, destination, report)
    save_generation(tokenizer, destination, stop_strings=[STOP])
    side = config.vision_config.image_size
    query_processor(
        tokenizer, side=side, queries=config.num_query_tokens, template="minigpt4"
    ).save_pretrained(destination)
    return report


def _chosen(settings: dict[str, Any] | None, names: tuple[str, ...]) -> dict[str, Any]:
    """Sizes that are given; what is not given has BLIP-2's own default."""
    return {name: value for name, value in (settings or {}).items() if name in names and value is not None}


def route_blip2(key: str, tensor: Tensor) -> Routed:
    """Where a key of a BLIP-2 checkpoint in transformers' layout goes."""
    if key.startswith(("language_model.", "language_projection.")):
        return Unused("BLIP-2's own language side; MiniGPT-4 has Vicuna and a linear layer of its own")
    if key.endswith("position_ids"):
        return Unused("a constant: 0, 1, 2 ...")
    if key == "query_tokens" or re.match(r"(vision_model|qformer)\.", key):
        return [(f"model.vision_tower.{key}", tensor)]
    return None


def route_linear(key: str, tensor: Tensor) -> Routed:
    """Where a key of the published MiniGPT-4 checkpoint goes."""
    if key in ("llama_proj.weight", "llama_proj.bias"):
        return [(f"model.vision_tower.{key}", tensor)]
    return None
