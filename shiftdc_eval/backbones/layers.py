"""The decoder layers of a model, and which of them a prompt reaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.steering import Edit


def find_decoder_layers(model: Any) -> list[nn.Module]:
    """The language model's decoder layers, found by structure.

    Raises:
        ModelError: the model does not show its decoder, or not as many layers as its config says.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(f"{type(model).__name__} does not show its decoder layers (no get_decoder().layers)")
    expected = getattr(model.config.get_text_config(), "num_hidden_layers", len(layers))
    if len(layers) != expected:
        raise ModelError(
            f"{type(model).__name__} has {len(layers)} decoder layers, its config says {expected}"
        )
    return list(layers)


def source(layer: int, skipped: frozenset[int]) -> int:
    """The layer whose output is the residual stream after `layer`: itself, unless it is skipped."""
    while layer in skipped and layer > 0:
        layer -= 1
    return layer


def _reader(layer: int, skipped: frozenset[int]) -> int:
    while layer in skipped:
        layer += 1
    return layer


def reachable(
    edits: Mapping[int, Edit], skipped: frozenset[int], site: Literal["output", "input"] = "output"
) -> dict[int, Edit]:
    """The same edits, moved from skipped layers to the nearest layers that run, in layer order.

    The output of a skipped layer is the output of the layer below; its input is the input of the layer above.
    """
    found: dict[int, Edit] = {}
    for layer in sorted(edits):
        at = source(layer, skipped) if site == "output" else _reader(layer, skipped)
        earlier = found.get(at)
        found[at] = edits[layer] if earlier is None else _in_turn(earlier, edits[layer])
    return found


def _in_turn(first: Edit, second: Edit) -> Edit:
    return lambda activation: second(first(activation))
