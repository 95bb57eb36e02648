"""Reading and editing activations at the output or the input of decoder layers.

All contexts register hooks on the decoder layers themselves (never `output_hidden_states`, whose last
entry is normed) and always remove them. The caller says where the last prompt token is; nothing is
guessed from shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.steering.edits import Edit


@dataclass(frozen=True)
class Scope:
    """Where edits act: by default the last prompt token, in prefill, at the output of a decoder layer."""

    positions: Literal["last", "all", "image"] = "last"
    """`last`: the newest token of a pass; `all`: every token of the pass; `image`: the prompt's tokens that stand for
    images, whatever `passes` says: an edit is called once a row then, with `[tokens of that row, hidden]`."""
    passes: Literal["prefill", "every"] = "prefill"
    """`prefill`: the prompt alone; `every`: decode steps too."""
    site: Literal["output", "input"] = "output"
    """Of the decoder layer; its input is the residual stream before the layer reads it."""


PREFILL = Scope()
"""The scope of ShiftDC: the last prompt token, once, at a layer's output."""


def _hidden(output: Any) -> Tensor:
    """The hidden states `[batch, tokens, hidden]` in a decoder layer's output (a tensor or a tuple)."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _with_hidden(output: Any, hidden: Tensor) -> Any:
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def hooked(layers: Iterable[Any]) -> bool:
    """Whether hooks on these layers change what leaves them."""
    return any(
        getattr(layer, "_forward_hooks", None) or getattr(layer, "_forward_pre_hooks", None)
        for layer in layers
    )


@contextmanager
def _hooks(
    layers: Sequence[nn.Module],
    hooks: Mapping[int, Callable[..., Any]],
    *,
    site: Literal["output", "input"] = "output",
) -> Iterator[None]:
    bad = sorted(index for index in hooks if not 0 <= index < len(layers))
    if bad:
        raise ModelError(
            f"layer {bad[0]} does not exist: the model has decoder layers 0 to {len(layers) - 1}"
        )
    with ExitStack() as stack:
        for index, hook in hooks.items():
            if site == "output":
                handle = layers[index].register_forward_hook(hook)
            else:
                handle = layers[index].register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
        yield


@contextmanager
def record_last_token(
    layers: Sequence[nn.Module], position: int | slice, *, only: Sequence[int] | None = None
) -> Iterator[dict[int, Tensor]]:
    """Record the activation of the token at `position` after each decoder layer, in the first forward pass.

    Args:
        layers: decoder layers, in order.
        position: index of the token in the (padded) sequence; with left padding the last prompt token of
            every row is at `width - 1`. Or a slice of tokens.
        only: layer indices to record; all when None.

    Yields:
        Layer index -> `[batch, hidden]` (`[batch, tokens, hidden]` for a slice), filled by the forward pass; a
        detached copy.

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
    """Edit the token at `position`, the last one of the (padded) prompt, after each named layer; see `edit_tokens`."""
    with edit_tokens(layers, edits, position, every_pass=every_pass) as made:
        yield made


@contextmanager
def edit_tokens(
    layers: Sequence[nn.Module],
    edits: Mapping[int, Edit],
    where: int | slice | Tensor,
    *,
    every_pass: bool = False,
    site: Literal["output", "input"] = "output",
) -> Iterator[dict[int, int]]:
    """Edit the activations of one token or of many at each named decoder layer.

    Args:
        layers: decoder layers, in order.
        edits: layer index -> edit of `[batch, hidden]`, or of `[batch, tokens, hidden]` where `where` is a slice, or,
            where it is a mask, of `[tokens, hidden]`: the masked tokens of one row, row by row. Layers not named are
            untouched.
        where: index of the token in the (padded) sequence, a slice of tokens, or a mask `[batch, prompt tokens]`.
        every_pass: False edits the first forward pass only (prefill with a KV cache; decode steps are not
            touched); True edits the same position in every pass, which is what decoding without a KV
            cache needs, since each step then runs the whole prompt again.
        site: the layer's `output`, or its `input`: the residual stream that it reads and adds to.

    Yields:
        Layer index -> number of edits made, so that a caller can check that each layer was edited.

    Raises:
        ModelError: a named layer does not exist.
    """
    made: dict[int, int] = dict.fromkeys(edits, 0)

    def edited(index: int, hidden: Tensor) -> Tensor:
        made[index] += 1
        changed = hidden.clone()
        if not isinstance(where, Tensor):
            changed[:, where] = edits[index](changed[:, where])
            return changed
        for row, mask in zip(changed, where.to(hidden.device), strict=True):
            # row is a view; without a KV cache it may end in answer tokens, of which there is no mask
            row[: len(mask)][mask] = edits[index](row[: len(mask)][mask])
        return changed

    def after(index: int) -> Callable[..., Any]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            if made[index] and not every_pass:
                return None
            return _with_hidden(output, edited(index, _hidden(output)))

        return hook

    def before(index: int) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if made[index] and not every_pass:
                return None
            if args:
                return (edited(index, args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": edited(index, kwargs["hidden_states"])}

        return hook

    hook_for = after if site == "output" else before
    with torch.no_grad(), _hooks(layers, {index: hook_for(index) for index in edits}, site=site):
        yield made


@contextmanager
def ablate(layers: Sequence[nn.Module], direction: Tensor) -> Iterator[None]:
    """Remove a direction from all that the decoder layers read and write, at every token of every pass.

    Directional ablation (arXiv 2406.11717, Eq. 4): `x - (x.r) r` with `r` of length 1, at the input of every layer and
    at the output of its attention and its feed-forward part, where these are called `self_attn` and `mlp`.

    Args:
        layers: decoder layers, in order.
        direction: `[hidden]`; its length does not matter.
    """
    unit = direction / direction.norm().clamp_min(torch.finfo(direction.dtype).tiny)

    def without(hidden: Tensor) -> Tensor:
        r = unit.to(hidden)
        along: Tensor = (hidden @ r).unsqueeze(-1) * r
        return hidden - along

    def part(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        return _with_hidden(output, without(_hidden(output)))

    with ExitStack() as stack:
        stack.enter_context(
            edit_tokens(
                layers, dict.fromkeys(range(len(layers)), without), slice(None), every_pass=True, site="input"
            )
        )
        for layer in layers:
            for name in ("self_attn", "mlp"):
                if isinstance(module := getattr(layer, name, None), nn.Module):
                    stack.callback(module.register_forward_hook(part).remove)
        yield
