"""Whether the fast engine is exact for a model: decided by facts of the model, never by its name alone.

The engine stores keys and values of prompts and attends to them under masks and positions that it gives
explicitly. That is exact where a token's keys and values depend on nothing that comes after it, and where the
decoder takes masks and positions from outside. Anything else is answered by the plain path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shiftdc_eval.backbones.generation import penalties

CHECKED_DECODERS = frozenset(
    {
        "LlamaModel",
        "MistralModel",
        "Qwen2Model",
        "Qwen3Model",
        "Qwen2VLTextModel",
        "Qwen2_5_VLTextModel",
        "Qwen3VLTextModel",
    }
)
"""Decoder classes for which the contract test shows the same tokens as the plain path."""
CHECKED_ATTENTION = frozenset({"sdpa", "eager"})
LENGTH_FREE_ROPE = frozenset({"default", "linear", "llama3", "yarn"})
"""Rotary embeddings whose angles do not depend on how long the whole sequence is."""
APPLIED = frozenset({"suppress_tokens", "stop_strings"})
"""Settings of a generation configuration that this engine applies as the plain path does."""


def refusal(model: Any, placements: Sequence[Any]) -> str | None:
    """Why the fast engine cannot be used for a model whose parameters lie in these places; None where it can."""
    config = model.config
    text = config.get_text_config()
    decoder = type(model.get_decoder()).__name__
    if getattr(text, "cross_attention_layers", None):
        return "images are read through cross-attention, not through the prompt's keys and values"
    if bidirectional := _bidirectional(config, text):
        return bidirectional
    if decoder not in CHECKED_DECODERS:
        return f"the decoder {decoder} is not among those whose answers were compared with the plain path's"
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        return f"the decoder has layers of kind {', '.join(sorted(kinds))}"
    rope = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope not in LENGTH_FREE_ROPE:
        return f"its rotary embedding ({rope}) depends on the length of the whole prompt"
    if getattr(text, "final_logit_softcapping", None):
        return "its logits are capped after the output layer"
    attention = getattr(config, "_attn_implementation", None)
    if attention not in CHECKED_ATTENTION:
        return f"attn_implementation={attention} takes no mask with holes; use sdpa"
    if len(placements) > 1:
        return "the model is spread over several devices"
    kept = penalties(model.generation_config)
    if unapplied := {name: value for name, value in kept.items() if name not in APPLIED}:
        return f"its generation configuration sets {', '.join(f'{n}={v}' for n, v in unapplied.items())}"
    return None


def _bidirectional(config: Any, text: Any) -> str | None:
    """Models in which image or prompt tokens also see later tokens."""
    if config.model_type in {"paligemma", "gemma3"} or getattr(text, "use_bidirectional_attention", None):
        return "prompt tokens attend in both directions, so a prefix depends on what follows it"
    return None


def window(model: Any) -> int | None:
    """Sliding attention window, in tokens; None where every token sees all before it."""
    text = model.config.get_text_config()
    width = getattr(text, "sliding_window", None)
    return int(width) if width and getattr(text, "use_sliding_window", True) is not False else None
