"""What conversions share: a published Llama checkpoint's keys, settings, tokenizer and vocabulary; processors."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken, GenerationConfig, LlamaConfig, LlavaProcessor

from shiftdc_eval.backbones.convert.checkpoint import Report, Routed, Unused
from shiftdc_eval.backbones.convert.llama_tokenizer import llama_tokenizer
from shiftdc_eval.backbones.native.image_processor import SquareImageProcessor
from shiftdc_eval.core.errors import ModelError

IMAGE_TOKEN = "<image>"  # noqa: S105 -- not a password
TEXT_FIELDS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "rms_norm_eps", "max_position_embeddings", "rope_theta", "rope_scaling", "hidden_act", "bos_token_id",
    "eos_token_id",
)  # fmt: skip
"""Settings that are taken over as they are."""


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from error
    return loaded


def with_image_token(folder: Path, published: int, report: Report) -> tuple[Any, int]:
    """The published tokenizer with an image token, and the size of the vocabulary that it needs.

    Args:
        folder: published Llama checkpoint.
        published: rows of its embedding.
        report: gets a note on what was added.
    """
    tokenizer = llama_tokenizer(folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
        report.notes.append(f"the tokenizer has no padding token; {tokenizer.pad_token} is used")
    add_token(tokenizer, IMAGE_TOKEN)
    vocabulary = max(published, len(tokenizer))
    if vocabulary > published:
        report.notes.append(
            f"{vocabulary - published} row(s) for added tokens in the embedding and the output layer, each the "
            "mean of the published rows: a mean of logits never exceeds their maximum, so greedy answers are "
            "those of the published vocabulary"
        )
    return tokenizer, vocabulary


def add_token(tokenizer: Any, token: str) -> None:
    """Make a text one special token of its own."""
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)


def text_config(original: dict[str, Any], vocabulary: int, tokenizer: Any) -> LlamaConfig:
    """The language model's configuration, from the published one."""
    return LlamaConfig(
        **{name: original[name] for name in TEXT_FIELDS if original.get(name) is not None},
        vocab_size=vocabulary,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )


def route_llama(key: str, tensor: Tensor, vocabulary: int) -> Routed:
    """Where a key of a Llama checkpoint goes in a vision-language model of transformers (its own names)."""
    if key.endswith("rotary_emb.inv_freq"):
        return Unused("computed from the configuration")
    if key == "lm_head.weight":
        return [(key, with_rows(tensor, vocabulary))]
    if key == "model.embed_tokens.weight":
        return [("model.language_model.embed_tokens.weight", with_rows(tensor, vocabulary))]
    if match := re.fullmatch(r"model\.((?:layers\.\d+|norm)\..*)", key):
        return [(f"model.language_model.{match[1]}", tensor)]
    return None


def with_rows(weight: Tensor, rows: int) -> Tensor:
    """A `[vocabulary, hidden]` matrix with more rows, each the mean of the published ones."""
    if len(weight) >= rows:
        return weight
    mean = weight.double().mean(0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(rows - len(weight), -1)])


def chat_template(name: str) -> str:
    """A chat template of this folder."""
    return (files("shiftdc_eval.backbones.convert") / f"{name}.jinja").read_text(encoding="utf-8")


def query_processor(tokenizer: Any, *, side: int, queries: int, template: str, **more: Any) -> LlavaProcessor:
    """The processor of a model whose images become a fixed number of vectors.

    Args:
        tokenizer: gets the template too.
        side: of the square that images are resized to, in pixels.
        queries: image tokens of an image.
        template: name of the chat template.
        more: of `LlavaProcessor`.
    """
    tokenizer.chat_template = chat_template(template)
    return LlavaProcessor(
        image_processor=SquareImageProcessor(size={"height": side, "width": side}),
        tokenizer=tokenizer,
        # one patch of the whole side, and the other queries on top: as many tokens as there are queries
        patch_size=side,
        num_additional_image_tokens=queries - 1,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
        **more,
    )


def save_generation(tokenizer: Any, destination: Path, **more: Any) -> None:
    """Write the generation settings of a converted model."""
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    ).save_pretrained(destination)
