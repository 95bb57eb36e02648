"""A small random twin of a model, made from its configuration: everything but the weights is the model's own.

The twin keeps processor, chat template, image tokens and head size, and cuts the language model to a few
narrow layers and the vision tower to a few layers. It checks the code paths in seconds; its answers mean
nothing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

from shiftdc_eval.backbones.loading import backbone_of
from shiftdc_eval.backbones.parts import load_parts
from shiftdc_eval.backbones.transformers_backbone import TransformersBackbone
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.core.model_spec import ModelArguments

TWIN_LAYERS = 4
TWIN_HEADS = 4
TWIN_VISION_LAYERS = 3
WIDTHS = ("hidden_size", "out_hidden_size", "projection_dim", "embed_dim")
"""Settings that must change with the language model's width where they equal it."""


@dataclass(frozen=True)
class Size:
    """Size of a model with this configuration."""

    parameters: int
    """Number of parameters."""
    layers: int
    """Decoder layers of the language model."""
    hidden: int
    """Width of the residual stream."""
    cache_values_per_token: int
    """Numbers in the KV cache for one token: keys and values of all layers."""


def size_of(config: Any, parameters: int) -> Size:
    """Size of a model, from its configuration and the number of its parameters."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_value_heads = getattr(text, "num_key_value_heads", None) or heads
    layers = text.num_hidden_layers
    return Size(parameters, layers, text.hidden_size, 2 * layers * key_value_heads * head_dim)


def shrunk(config: Any) -> Any:
    """A copy of a configuration whose language model has few, narrow layers with heads of the same size."""
    small = copy.deepcopy(config)
    text = small.get_text_config()
    layers, heads, width = text.num_hidden_layers, text.num_attention_heads, text.hidden_size
    head_dim = getattr(text, "head_dim", None) or width // heads
    new_heads = min(heads, TWIN_HEADS)
    new_layers = min(layers, TWIN_LAYERS)
    key_value_heads = getattr(text, "num_key_value_heads", None) or heads
    # a per-layer list (attention kinds, say) must keep one entry per layer
    for name, value in vars(text).items():
        if isinstance(value, list) and len(value) == layers and layers != new_layers:
            setattr(text, name, value[:new_layers])
    cross = getattr(text, "cross_attention_layers", None)
    if cross:
        text.cross_attention_layers = [layer for layer in cross if layer < new_layers]
    new_width = new_heads * head_dim
    for holder in (small, text, *(getattr(small, name, None) for name in ("vision_config", "audio_config"))):
        for name in WIDTHS:
            if holder is not None and getattr(holder, name, None) == width:
                setattr(holder, name, new_width)
    text.num_hidden_layers = new_layers
    text.num_attention_heads = new_heads
    if getattr(text, "num_key_value_heads", None):
        text.num_key_value_heads = max(1, new_heads * key_value_heads // heads)
    text.intermediate_size = 2 * new_width
    _cut_vision(small)
    return small


def _cut_vision(config: Any) -> None:
    """Cut the vision tower to a few layers, keeping every layer that other settings name by number."""
    vision = getattr(config, "vision_config", None)
    depth = next(
        (n for n in ("num_hidden_layers", "depth") if isinstance(getattr(vision, n, None), int)), None
    )
    features = getattr(config, "vision_feature_layer", -1)
    if depth is None or not isinstance(features, int) or not -TWIN_VISION_LAYERS < features < 0:
        return
    numbered = {n: v for n, v in vars(vision).items() if n.endswith(("_indexes", "_indices")) and v}
    kept = max([TWIN_VISION_LAYERS, *(len(layers) + 1 for layers in numbered.values())])
    if kept < getattr(vision, depth):
        setattr(vision, depth, kept)
        for name, layers in numbered.items():
            setattr(vision, name, list(range(len(layers))))


def load_twin(spec: ModelArguments) -> tuple[TransformersBackbone, Size]:
    """A random twin that needs the model's configuration and processor but none of its weights.

    Returns:
        The twin and the size of the real model, counted on the meta device.

    Raises:
        ModelError: not a supported model, or one whose configuration cannot be cut down.
    """
    parts = load_parts(spec)
    with torch.device("meta"):
        real = parts.loader.from_config(parts.config)
    size = size_of(parts.config, sum(parameter.numel() for parameter in real.parameters()))
    try:
        torch.manual_seed(0)
        model = parts.loader.from_config(shrunk(parts.config), dtype=parts.dtype).to(parts.device)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"cannot make a small twin of {spec.pretrained} ({parts.config.model_type}): {error}; "
            "check it with its weights instead"
        ) from error
    backbone = backbone_of(model, replace(parts, revision="random weights"), spec)
    return backbone, size
