"""Reading and editing one token's activation at the output of decoder layers.

Both contexts register forward hooks on the decoder layers themselves (never `output_hidden_states`,
whose last entry is normed) and always remove them. The caller says where the last prompt token is;
nothing is guessed from shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shiftdc_eval.errors import ModelError
from shiftdc_eval.steering.edits import Edit


def _hidden(output: Any) -> Tensor:
    """The hidden states `[batch, tokens, hidden]` in a decoder layer's output (a tensor or a tuple)."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


@contextmanager
def _hooks(layers: Sequence[nn.Module], hooks: Mapping[int, Callable[..., Any]]) -> Iterator[None]:
    bad = sorted(index for index in hooks if not 0 <= index < len(layers))
    if bad:
        raise ModelError(
            f"layer {bad[0]} does not exist: the model has decoder layers 0 to {len(layers) - 1}"
        )
    with ExitStack() as stack:
        for index, hook in hooks.items():
            stack.callback(layers[index].register_forward_hook(hook).remove)
        yield


@contextmanager
def record_last_token(
    layers: Sequence[nn.Module], position: int, *, only: Sequence[int] | None = None
) -> Iterator[dict[int, Tensor]]:
    """Record the activation of the token at `position` after each decoder layer, in the first forward pass.

    Args:
        layers: decoder layers, in order.
        position: index of the token in the (padded) sequence; with left padding the last prompt token of
            every row is at `width - 1`.
        only: layer indices to record; all when None.

    Yields:
        Layer index -> `[batch, hidden]`, filled by the forward pass; a detached copy.

    Example:
        >>> with record_last_token(layers, position=inputs["input_ids"].shape[1] - 1) as seen:
        ...     model(**inputs)
        >>> seen[3].shape
        torch.Size([2, 4096])
    """
    seen: dict[int, Tensor] = {}

    def hook_for(index: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if index not in seen:
                seen[index] = _hidden(output)[:, position].detach().clone()

        return hook

    with _hooks(layers, {index: hook_for(index) for index in (range(len(layers)) if only is None else only)}):
        yield seen


@contextmanager
def edit_last_token(
    layers: Sequence[nn.Module], edits: Mapping[int, Edit], position: int, *, every_pass: bool = False
) -> Iterator[dict[int, int]]:
    """Edit the activation of the token at `position` after each named decoder layer.

    Args:
        layers: decoder layers, in order.
        edits: layer index -> edit; layers not named are untouched.
        position: index of the last prompt token in the (padded) sequence.
        every_pass: False edits the first forward pass only (prefill with a KV cache; decode steps are not
            touched); True edits the same position in every pass, which is what decoding without a KV
            cache needs, since each step then runs the whole prompt again.

    Yields:
        Layer index -> number of edits made, so that a caller can check that each layer was edited.

    Raises:
        ModelError: a named layer does not exist.
    """
    made: dict[int, int] = dict.fromkeys(edits, 0)

    def hook_for(index: int, edit: Edit) -> Callable[..., Any]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            if made[index] and not every_pass:
                return None
            made[index] += 1
            hidden = _hidden(output).clone()
            hidden[:, position] = edit(hidden[:, position])
            return _with_hidden(output, hidden)

        return hook

    with torch.no_grad(), _hooks(layers, {index: hook_for(index, edit) for index, edit in edits.items()}):
        yield made
