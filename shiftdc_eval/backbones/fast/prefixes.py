"""Image prefixes whose keys and values are kept in slots, so that several prompts about an image share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shiftdc_eval.backbones.fast.slots import Slots


@dataclass(frozen=True)
class Prefix:
    """What a stored prefix was made from."""

    ids: tuple[int, ...]
    """Its tokens, up to and with the last image token."""
    images: tuple[int, ...]
    """Its images, by identity: prompts about one request hold the same image objects."""


@dataclass(frozen=True)
class Tail:
    """What follows the prefix in one row's prompt, and the slot where the prefix lies."""

    row: int
    """Index in the call."""
    slot: int
    """Where the row lives."""
    ids: Tensor
    """Token ids, `[tokens]`."""
    positions: Tensor
    """Positions, `[tokens]` or `[4, tokens]`."""

    @property
    def position_rows(self) -> int:
        """0 for one position a token, else how many."""
        return int(self.positions.shape[0]) if self.positions.ndim == 2 else 0


class Prefixes:
    """Which slot holds which prefix, and in which columns."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._kept: dict[int, tuple[Prefix, tuple[int, int]]] = {}
        self.end = 0
        """First column right of all kept prefixes."""
        self.made = 0
        """Prefixes prefilled, for tests and cost tables."""
        self.reused = 0
        """Prompts that found their prefix stored."""

    def forget(self) -> None:
        """Let all prefixes be overwritten."""
        self._kept.clear()
        self.end = 0

    def find(self, prefix: Prefix, taken: set[int]) -> int | None:
        """A slot that holds the prefix and is not taken."""
        for slot, (kept, _) in self._kept.items():
            if slot not in taken and kept == prefix:
                self.reused += 1
                return slot
        return None

    def empty(self, count: int, taken: set[int]) -> list[int]:
        """Slots for new prefixes: unused ones first, then ones whose prefix this call does not need."""
        usable = [slot for slot in range(self._slots.rows) if slot not in taken]
        usable.sort(key=lambda slot: (slot in self._kept, slot))
        chosen = usable[:count]
        for slot in chosen:
            self._kept.pop(slot, None)
        return chosen

    def put(self, slots: Sequence[int], prefixes: Sequence[Prefix], spans: Sequence[tuple[int, int]]) -> None:
        """Note what was stored where."""
        for slot, prefix, span in zip(slots, prefixes, spans, strict=True):
            self._kept[slot] = (prefix, span)
            self.end = max(self.end, span[1])
        self.made += len(slots)

    def spans(self, slots: Sequence[int]) -> list[tuple[int, int]]:
        """Columns of the prefixes in some slots."""
        return [self._kept[slot][1] for slot in slots]

    def swapped(self, some: Sequence[int], others: Sequence[int]) -> None:
        """Follow an exchange of slots."""
        for one, other in zip(some, others, strict=True):
            pair = self._kept.pop(one, None), self._kept.pop(other, None)
            for slot, kept in zip((other, one), pair, strict=True):
                if kept is not None:
                    self._kept[slot] = kept


def padded(tails: Sequence[Tail]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids `[rows, width]`, mask `[rows, width]` and positions `[..., rows, width]` of left-padded tails."""
    width = max(len(tail.ids) for tail in tails)
    lead = tails[0].positions.shape[:-1]
    ids = torch.zeros(len(tails), width, dtype=torch.long)
    mask = torch.zeros(len(tails), width, dtype=torch.bool)
    positions = torch.zeros(*lead, len(tails), width, dtype=torch.long)
    for at, tail in enumerate(tails):
        start = width - len(tail.ids)
        ids[at, start:], mask[at, start:] = tail.ids, True
        positions[..., at, start:] = tail.positions
    return ids, mask, positions
