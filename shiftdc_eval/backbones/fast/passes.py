"""Forward passes that store keys and values in slots: whole prompts, prefixes, and what follows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor

from shiftdc_eval.backbones.fast.prefixes import Prefixes, Tail, padded
from shiftdc_eval.backbones.fast.prompts import suffix_mask, visible
from shiftdc_eval.backbones.fast.slots import Slots, as_rows, suffix, whole
from shiftdc_eval.backbones.fast.stepping import additive, cache_argument
from shiftdc_eval.backbones.loaded_model import LoadedModel
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.steering import Edit, edit_last_token

SUFFIX_TOKENS = 16_384
"""Tokens of suffixes that are prefilled together."""
Edits = Callable[[list[int]], Mapping[int, Edit]]
"""Rows of a call -> layer index -> edit of the last prompt token."""


class Passes:
    """Prefill passes of one model.

    Args:
        backbone: the model.
        slots: where keys and values are stored.
        prefixes: which slots hold prefixes.
    """

    def __init__(self, backbone: LoadedModel, slots: Slots, prefixes: Prefixes) -> None:
        self._backbone, self._slots, self._prefixes = backbone, slots, prefixes
        self._model = model = backbone.model
        self._decoder = model.get_decoder()
        self.head = model.get_output_embeddings()
        """The output layer: hidden states to logits."""
        self._additive = model.config._attn_implementation == "eager"

    def prompt(self, inputs: Mapping[str, Tensor], slots: Sequence[int]) -> Tensor:
        """Run whole prompts (or prefixes) and store them; hidden states `[rows, width, hidden]`."""
        device = self._backbone.device
        given = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
        prepared = self._model.prepare_inputs_for_generation(
            given.pop("input_ids"), is_first_iteration=True, use_cache=True, **given
        )
        prepared.pop("logits_to_keep", None)
        cache = whole(self._slots, as_rows(slots, device), 0)
        prepared[cache_argument(self._model.base_model)] = cache
        hidden: Tensor = self._model.base_model(**prepared).last_hidden_state
        return hidden

    def suffix(self, tails: Sequence[Tail]) -> Tensor:
        """Run what follows the kept prefixes; hidden states `[rows, width, hidden]`, left-padded."""
        device = self._backbone.device
        slots = [tail.slot for tail in tails]
        start = self._prefixes.end
        ids, mask, positions = (tensor.to(device, non_blocking=True) for tensor in padded(tails))
        self._slots.reserve(self._slots.rows, start + ids.shape[1], keep=start)
        seen = visible([[span] for span in self._prefixes.spans(slots)], start).to(device)
        allowed = suffix_mask(seen, mask)
        hidden: Tensor = self._decoder(
            input_ids=ids,
            attention_mask=additive(allowed, self.head.weight.dtype) if self._additive else allowed,
            position_ids=positions,
            use_cache=True,
            **{cache_argument(self._decoder): suffix(self._slots, as_rows(slots, device), start)},
        ).last_hidden_state
        return hidden

    @contextmanager
    def edited(self, rows: Sequence[int], edits: Edits | None) -> Iterator[None]:
        """Edit the last prompt token of the one forward pass inside.

        Raises:
            ModelError: a layer that was to be edited was not reached.
        """
        with edit_last_token(self._backbone.layers, edits(list(rows)) if edits else {}, -1) as made:
            yield
        missed = [layer for layer, count in made.items() if not count]
        if missed:
            raise ModelError(
                f"decoder layers {missed} of {self._backbone.name} were not reached by the forward pass"
            )


def chunks(tails: Sequence[Tail]) -> Iterator[list[Tail]]:
    """Tails whose padded tokens fit one forward pass."""
    chunk: list[Tail] = []
    for tail in tails:
        width = max(len(one.ids) for one in (*chunk, tail))
        if chunk and width * (len(chunk) + 1) > SUFFIX_TOKENS:
            yield chunk
            chunk = []
        chunk.append(tail)
    if chunk:
        yield chunk
