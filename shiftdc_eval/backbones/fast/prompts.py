"""Encoded prompts cut into what several prompts of one image share and what is each one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PER_TOKEN = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids")
"""Inputs that hold one entry a token, tokens last; all others belong to the images."""


@dataclass(frozen=True)
class Piece:
    """Some rows of a call, encoded together and left-padded to a width of their own; on the CPU."""

    rows: tuple[int, ...]
    """Indices of the rows in the call."""
    inputs: dict[str, Tensor]
    """What the model's forward takes, positions included."""
    lengths: tuple[int, ...]
    """Prompt tokens of each row."""
    prefixes: tuple[int, ...]
    """Tokens of each row up to and with its last image token; 0 without images."""

    @property
    def width(self) -> int:
        """Padded length."""
        return int(self.inputs["input_ids"].shape[1])

    def prefix_ids(self, at: int) -> tuple[int, ...]:
        """Token ids of a row's prefix."""
        start = self.width - self.lengths[at]
        return tuple(self.inputs["input_ids"][at, start : start + self.prefixes[at]].tolist())

    @property
    def position_rows(self) -> int:
        """0 for one position a token, else how many (4 with multimodal positions)."""
        positions = self.inputs["position_ids"]
        return int(positions.shape[0]) if positions.ndim == 3 else 0

    def tail(self, at: int) -> tuple[Tensor, Tensor]:
        """Ids and positions of what follows a row's prefix."""
        start = self.width - self.lengths[at] + self.prefixes[at]
        return self.inputs["input_ids"][at, start:], self.inputs["position_ids"][..., at, start:]

    def cut(self, first: Sequence[int], last: Sequence[int], pad: int) -> tuple[dict[str, Tensor], int]:
        """Tokens `first[r]` to `last[r]` (exclusive) of every row, left-padded anew.

        Returns:
            The per-token inputs and their width.
        """
        width = max(end - start for start, end in zip(first, last, strict=True))
        offsets = torch.tensor([self.width - length for length in self.lengths])
        begin, end = offsets + torch.tensor(first), offsets + torch.tensor(last)
        index = end[:, None] - width + torch.arange(width)
        real = index >= begin[:, None]
        index = index.clamp(min=0)
        found = {}
        for name in PER_TOKEN:
            if (tensor := self.inputs.get(name)) is not None:
                taken = tensor.gather(-1, index.expand(*tensor.shape[:-1], width))
                found[name] = taken.masked_fill(~real, pad if name == "input_ids" else 0)
        return found, width


def piece_of(rows: Sequence[int], inputs: dict[str, Tensor], image_tokens: Sequence[int]) -> Piece:
    """A piece with its rows' prefixes found."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    width = ids.shape[1]
    lengths = mask.sum(-1)
    is_image = torch.isin(ids, torch.tensor(list(image_tokens), dtype=ids.dtype)) & mask
    after_last = torch.where(is_image, torch.arange(1, width + 1), 0).amax(-1)
    prefixes = torch.where(after_last > 0, after_last - (width - lengths), 0)
    return Piece(tuple(rows), inputs, tuple(lengths.tolist()), tuple(prefixes.tolist()))


def visible(spans: Sequence[Sequence[tuple[int, int]]], columns: int) -> Tensor:
    """A mask `[rows, columns]` that shows each row the given column ranges (start, end)."""
    mask = torch.zeros(len(spans), columns, dtype=torch.bool)
    for row, ranges in zip(mask, spans, strict=True):
        for start, end in ranges:
            row[start:end] = True
    return mask


def suffix_mask(seen: Tensor, mask: Tensor) -> Tensor:
    """What the tokens of left-padded suffixes see: their row's prefix columns, and themselves causally.

    Args:
        seen: `[rows, prefix columns]`, True where a row's prefix lies.
        mask: `[rows, width]`, 1 at real tokens.

    Returns:
        `[rows, 1, width, prefix columns + width]`; a padding token sees itself alone, so that its softmax is
        defined.
    """
    rows, width = mask.shape
    causal = torch.ones(width, width, dtype=torch.bool, device=mask.device).tril()
    own = causal & mask.bool()[:, None, :] | torch.eye(width, dtype=torch.bool, device=mask.device)
    prefix = seen[:, None, :].expand(rows, width, seen.shape[1])
    return torch.cat([prefix, own], dim=-1)[:, None]


def image_identity(chat: Any) -> tuple[int, ...]:
    """The chat's images as objects: prompts of one request hold the same ones."""
    return tuple(id(image) for image in chat.images)
