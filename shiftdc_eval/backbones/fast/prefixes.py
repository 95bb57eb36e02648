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
class Joint:
    """How a prompt goes on after a prefix, known without looking at the images again.

    The processor makes room for images in a rendered prompt; what stands behind the last image is not
    touched by that. So a prompt whose rendering is equal up to the last image has the same prefix, and its
    own rendering behind it.
    """

    head: tuple[int, ...]
    """Rendered prompt up to and with its last image token, one image token an image."""
    link: tuple[int, ...]
    """Tokens that the processor puts between the image and the rest of the rendering."""
    after: Tensor
    """Position of the first token behind the prefix, `[]` or `[4]`."""


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


@dataclass(frozen=True)
class Kept:
    """One slot's prefix."""

    prefix: Prefix
    span: tuple[int, int]
    """Columns where it lies."""
    joint: Joint | None
    """None where the rest of a prompt is not known without encoding it whole."""


class Prefixes:
    """Which slot holds which prefix, and in which columns."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._kept: dict[int, Kept] = {}
        self.end = 0
        """First column right of all kept prefixes."""
        self.made = 0
        """Prefixes prefilled, for tests and cost tables."""
        self.reused = 0
        """Prompts that found their prefix stored."""
        self.joined = 0
        """Prompts among those that were not encoded again."""

    def forget(self) -> None:
        """Let all prefixes be overwritten."""
        self._kept.clear()
        self.end = 0

    def only(self, images: set[int]) -> None:
        """Forget the prefixes of all other images: their identities may soon be those of new images."""
        self._kept = {
            slot: kept for slot, kept in self._kept.items() if images.issuperset(kept.prefix.images)
        }
        if not self._kept:
            self.end = 0

    def find(self, prefix: Prefix, taken: set[int]) -> int | None:
        """A slot that holds the prefix and is not taken."""
        for slot, kept in self._kept.items():
            if slot not in taken and kept.prefix == prefix:
                self.reused += 1
                return slot
        return None

    def join(
        self, rendered: Sequence[int], images: tuple[int, ...], image_tokens: set[int], taken: set[int]
    ) -> tuple[int, int, Tensor, Tensor] | None:
        """A slot that holds a rendered prompt's prefix, the prefix's length, and the tail's ids and positions."""
        behind = _behind_last_image(rendered, image_tokens)
        for slot, kept in self._kept.items():
            joint = kept.joint
            if slot in taken or joint is None or kept.prefix.images != images:
                continue
            if joint.head == tuple(rendered[:behind]):
                self.reused += 1
                self.joined += 1
                ids = torch.tensor([*joint.link, *rendered[behind:]])
                positions = joint.after[..., None] + torch.arange(len(ids))
                return slot, len(kept.prefix.ids), ids, positions
        return None

    def empty(self, count: int, taken: set[int]) -> list[int]:
        """Slots for new prefixes: unused ones first, then ones whose prefix this call does not need."""
        usable = [slot for slot in range(self._slots.rows) if slot not in taken]
        usable.sort(key=lambda slot: (slot in self._kept, slot))
        chosen = usable[:count]
        for slot in chosen:
            self._kept.pop(slot, None)
        return chosen

    def put(self, slots: Sequence[int], kept: Sequence[Kept]) -> None:
        """Note what was stored where."""
        self._kept.update(zip(slots, kept, strict=True))
        self.end = max(self.end, *(one.span[1] for one in kept))
        self.made += len(slots)

    def spans(self, slots: Sequence[int]) -> list[tuple[int, int]]:
        """Columns of the prefixes in some slots."""
        return [self._kept[slot].span for slot in slots]

    def swapped(self, some: Sequence[int], others: Sequence[int]) -> None:
        """Follow an exchange of slots."""
        for one, other in zip(some, others, strict=True):
            pair = self._kept.pop(one, None), self._kept.pop(other, None)
            for slot, kept in zip((other, one), pair, strict=True):
                if kept is not None:
                    self._kept[slot] = kept


def _behind_last_image(rendered: Sequence[int], image_tokens: set[int]) -> int:
    return max((at + 1 for at, token in enumerate(rendered) if token in image_tokens), default=0)


def joint_of(rendered: Sequence[int], image_tokens: set[int], ids: Tensor, positions: Tensor) -> Joint | None:
    """How prompts with this prefix go on, read off one prompt that was encoded whole.

    Args:
        rendered: the prompt before the processor made room for images.
        image_tokens: ids that stand for images.
        ids: what follows the prefix in the encoded prompt.
        positions: its positions.
    """
    behind = _behind_last_image(rendered, image_tokens)
    rest = list(rendered[behind:])
    given = ids.tolist()
    even = torch.equal(positions, positions[..., :1] + torch.arange(len(given)))
    if not behind or not rest or given[-len(rest) :] != rest or not even:
        return None
    return Joint(tuple(rendered[:behind]), tuple(given[: len(given) - len(rest)]), positions[..., 0])


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
