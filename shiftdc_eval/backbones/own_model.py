"""A backbone of a model that the user has loaded already."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from shiftdc_eval.backbones.families import CAVEATS
from shiftdc_eval.backbones.transformers_backbone import TransformersBackbone
from shiftdc_eval.core.errors import ConfigError, ModelError


def own_backbone(
    model: Any, processor: Any, *, name: str | None = None, revision: str | None = None
) -> TransformersBackbone:
    """The backbone of a loaded transformers model.

    Args:
        model: a vision-language model of transformers.
        processor: its processor, with a tokenizer.
        name: what the model is called; by default where it was loaded from.
        revision: identifies the weights in caches (captions, directions); by default a hash of all of
            them, which reads each once. Wrap the model again after training it further.

    Raises:
        ConfigError: an argument that is not what it should be.
        ModelError: the decoder layers cannot be found, or weights to hash are not in memory.
    """
    if not isinstance(model, PreTrainedModel):
        raise ConfigError(
            f"the model is a {type(model).__name__}, not a loaded model of transformers; load() loads one by its name"
        )
    if not model.can_generate() or model.get_output_embeddings() is None:
        raise ConfigError(
            f"{type(model).__name__} has no language-model head: it cannot answer; load the class that ends in "
            "ForConditionalGeneration, or AutoModelForImageTextToText"
        )
    if not hasattr(processor, "image_processor"):
        raise ConfigError(
            f"the processor is a {type(processor).__name__}, which takes no images; give the model's own: "
            "AutoProcessor.from_pretrained(...)"
        )
    for argument, value in (("name", name), ("revision", revision)):
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{argument}={value!r} is a {type(value).__name__}, not a text")
    source = str(getattr(model.config, "_name_or_path", "") or "")
    return TransformersBackbone(
        model,
        processor,
        name=name or source or type(model).__name__,
        revision=revision or content_revision(model, processor),
        note=CAVEATS.get(model.config.model_type, ""),
        folder=source if source and Path(source).is_dir() else None,
    )


def content_revision(model: Any, processor: Any) -> str:
    """sha256 over everything in memory that can change an answer: weights, configurations, vocabulary, processor.

    Raises:
        ModelError: weights that are offloaded to a disk.
    """
    vocabulary = getattr(processor, "tokenizer", processor).get_vocab()
    settings = [part.to_json_string() for part in (model.config, model.generation_config, processor)]
    digest = hashlib.sha256(json.dumps([settings, sorted(vocabulary.items())]).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_meta:
            raise ModelError(f"the weights {name} are not in memory and cannot be hashed: give revision=")
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
