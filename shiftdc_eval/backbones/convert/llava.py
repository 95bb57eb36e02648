"""LLaVA-1.5 type checkpoints in their original layout (LLaVA-1.5, ShareGPT4V) to transformers' layout.

The original layout (haotian-liu/LLaVA, InternLM/InternLM-XComposer projects/ShareGPT4V): a Llama checkpoint
with `model.mm_projector.{0,2}` beside it; the vision tower is a CLIP checkpoint of its own that the
configuration names (ShareGPT4V: fine-tuned weights), or lies in the same files under
`model.vision_tower.vision_tower`. Written are the names that the llava-hf checkpoints on the hub use.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessor,
    LlavaProcessor,
)

from shiftdc_eval.backbones.convert.checkpoint import (
    Report,
    Routed,
    Source,
    Unused,
    checkpoint_files,
    read_tensors,
    source_folder,
    write_model,
)
from shiftdc_eval.backbones.convert.llama import (
    IMAGE_TOKEN,
    chat_template,
    read_json,
    route_llama,
    save_generation,
    text_config,
    with_image_token,
)
from shiftdc_eval.core.errors import ModelError

PATTERNS = ("*.json", "*.safetensors", "*.bin", "tokenizer.model")
SUPPORTED = {"mm_projector_type": "mlp2x_gelu", "mm_use_im_start_end": False, "mm_patch_merge_type": "flat"}
"""Settings that a convertible checkpoint must have, where it has them at all."""


def convert_llava(source: str, destination: Path, vision_tower: str | None = None) -> Report:
    """Write a LLaVA-1.5 type checkpoint in transformers' layout, with tokenizer, processor and template.

    Args:
        source: folder or hub id of the original checkpoint.
        destination: existing folder to write into.
        vision_tower: folder or hub id of the CLIP vision tower; the one the configuration names when None.

    Raises:
        ModelError: a part is missing, is of another kind, or does not fit by shape.
    """
    folder = source_folder(source, PATTERNS)
    original = read_json(folder / "config.json")
    _check_kind(source, original)
    tower = source_folder(vision_tower or str(original["mm_vision_tower"]), PATTERNS)
    vision = read_json(tower / "config.json")
    vision = vision.get("vision_config", vision) if "patch_size" not in vision else vision

    report = Report()
    tokenizer, vocabulary = with_image_token(folder, int(original["vocab_size"]), report)
    config = _config(original, vision, vocabulary, tokenizer)
    main = checkpoint_files(folder)
    sources = [Source(main, _router(vocabulary))]
    if not _holds_vision(main):
        sources.append(Source(checkpoint_files(tower), route_vision))
    write_model(LlavaForConditionalGeneration, config, sources, destination, report, published_name)
    save_generation(tokenizer, destination)
    _processor(original, config, tokenizer).save_pretrained(destination)
    return report


def _check_kind(source: str, original: dict[str, Any]) -> None:
    if "mm_vision_tower" not in original:
        raise ModelError(
            f"{source} is not in the original LLaVA layout: config.json names no mm_vision_tower"
        )
    for name, wanted in SUPPORTED.items():
        if original.get(name, wanted) != wanted:
            raise ModelError(
                f"{source} has {name}={original[name]!r}; only {wanted!r} (LLaVA-1.5 type) is converted. "
                "LLaVA-1.6 is published in transformers' layout by llava-hf"
            )


def _config(original: dict[str, Any], vision: dict[str, Any], vocabulary: int, tokenizer: Any) -> LlavaConfig:
    known = set(CLIPVisionConfig().to_dict()) - {
        "model_type",
        "architectures",
        "transformers_version",
        "dtype",
    }
    vision_config = CLIPVisionConfig(**{name: value for name, value in vision.items() if name in known})
    select = original.get("mm_vision_select_feature", "patch")
    return LlavaConfig(
        text_config=text_config(original, vocabulary, tokenizer),
        vision_config=vision_config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        projector_hidden_act="gelu",
        vision_feature_layer=original.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="default" if select == "patch" else "full",
        image_seq_length=(vision_config.image_size // vision_config.patch_size) ** 2,
        tie_word_embeddings=False,
        dtype=original.get("torch_dtype", "float16"),
    )


def _processor(original: dict[str, Any], config: LlavaConfig, tokenizer: Any) -> LlavaProcessor:
    side = config.vision_config.image_size
    image_processor = LlavaImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        # the original pads an image to a square with the mean colour before it is resized
        do_pad=original.get("image_aspect_ratio") == "pad",
    )
    tokenizer.chat_template = chat_template("vicuna_v1")
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


def published_name(name: str) -> str:
    """Name in the llava-hf checkpoints of a tensor of `LlavaForConditionalGeneration`."""
    for ours, theirs in (
        ("lm_head.", "language_model.lm_head."),
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.", ""),
    ):
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def _holds_vision(paths: list[Path]) -> bool:
    return any("vision_tower." in name for path in paths for name, _ in read_tensors(path))


def route_vision(key: str, tensor: Tensor) -> Routed:
    """Where a key of a CLIP checkpoint goes."""
    if key.endswith("position_ids"):
        return Unused("a constant: 0, 1, 2 ...")
    if re.match(r"(text_model|text_projection|visual_projection|logit_scale)", key):
        return Unused("the text side of CLIP; LLaVA uses the vision tower alone")
    key = key.removeprefix("vision_model.")
    if re.match(r"(embeddings|pre_layrnorm|encoder|post_layernorm)\.", key):
        return [(f"vision_tower.vision_model.{key}", tensor)]
    return None


def _router(vocabulary: int) -> Callable[[str, Tensor], Routed]:
    def route(key: str, tensor: Tensor) -> Routed:
        if match := re.fullmatch(r"model\.mm_projector\.(0|2)\.(weight|bias)", key):
            return [(f"multi_modal_projector.linear_{1 if match[1] == '0' else 2}.{match[2]}", tensor)]
        if key.startswith("model.vision_tower.vision_tower."):
            return route_vision(key.removeprefix("model.vision_tower.vision_tower."), tensor)
        routed = route_llama(key, tensor, vocabulary)
        if routed is None or isinstance(routed, Unused):
            return routed
        return [(published_name(name), value) for name, value in routed]

    return route
