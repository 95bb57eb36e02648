"""Giving every row of a call a slot that holds its image prefix."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shiftdc_eval.backbones.fast.passes import Passes
from shiftdc_eval.backbones.fast.pieces import Pieces
from shiftdc_eval.backbones.fast.prefixes import Kept, Prefix, Prefixes, Tail, joint_of
from shiftdc_eval.backbones.fast.prompts import PER_TOKEN, Piece, image_identity
from shiftdc_eval.backbones.fast.slots import Slots, rounded
from shiftdc_eval.backbones.loaded_model import LoadedModel


class CannotShare(Exception):
    """The rows of a call do not fit into memory together, or a prompt ends with its image."""


class Placing:
    """Finds stored prefixes and stores those that are missing.

    Args:
        backbone: the model.
        slots: keys and values.
        prefixes: which slots hold prefixes.
        passes: stores prefixes.
    """

    def __init__(self, backbone: LoadedModel, slots: Slots, prefixes: Prefixes, passes: Passes) -> None:
        self._backbone, self._slots, self._prefixes, self._passes = backbone, slots, prefixes, passes

    def placed(self, pieces: Pieces, ring: int) -> list[Tail]:
        """Store the image prefixes that are not stored yet; the rows' tails, by slot, in the first slots.

        Raises:
            CannotShare: the rows do not fit into memory together, or a prompt ends with its image.
        """
        taken: dict[int, int] = {}  # slot -> row
        tails: dict[int, tuple[Tensor, Tensor]] = {}
        self._join(pieces, taken, tails)
        for piece in pieces.of([row for row in range(len(pieces.chats)) if row not in tails]):
            self._make_room(len(pieces.chats), rounded(piece.width) + ring)
            missing: list[int] = []
            for at, row in enumerate(piece.rows):
                tails[row] = piece.tail(at)
                if not len(tails[row][0]):
                    raise CannotShare
                slot = self._prefixes.find(self._prefix(piece, at, pieces), set(taken))
                if slot is None:
                    missing.append(row)
                else:
                    taken[slot] = row
            # images cannot be cut out of a piece that is encoded: rows that miss theirs are encoded by themselves
            for part in [piece] if len(missing) == len(piece.rows) else pieces.of(missing):
                slots = self._prefixes.empty(len(part.rows), set(taken))
                self._store(part, slots, pieces)
                taken.update(zip(slots, part.rows, strict=True))
        slot_of = self._in_front({row: slot for slot, row in taken.items()})
        return [
            Tail(row, slot, *tails[row]) for row, slot in sorted(slot_of.items(), key=lambda pair: pair[1])
        ]

    def _join(self, pieces: Pieces, taken: dict[int, int], tails: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Find the rows whose prefix is stored by their rendering alone: their images are not looked at again."""
        if not self._prefixes.end:
            return
        for row, rendered in enumerate(pieces.rendered(range(len(pieces.chats))) or []):
            images = image_identity(pieces.chats[row])
            found = self._prefixes.join(rendered, images, pieces.image_tokens, set(taken))
            if found is not None:
                slot, length, ids, positions = found
                taken[slot] = row
                tails[row] = ids, positions
                pieces.lengths[row] = length + len(ids)

    def _make_room(self, rows: int, columns: int) -> None:
        """Enough slots for all rows of a call.

        Raises:
            CannotShare: they do not fit into memory together.
        """
        if self._slots.rows >= rows and self._slots.columns >= columns:
            return
        if rows > self._slots.most(columns):
            raise CannotShare
        self._slots.reserve(rows, columns, keep=self._prefixes.end)

    def _in_front(self, slot_of: dict[int, int]) -> dict[int, int]:
        """Move the rows of this call into the first slots, what lay there out of the way."""
        count = len(slot_of)
        used = set(slot_of.values())
        outside = [slot for slot in used if slot >= count]
        if not outside:
            return slot_of
        inside = [slot for slot in range(count) if slot not in used]
        device = self._slots.device
        self._slots.move(
            torch.tensor(inside + outside, device=device), torch.tensor(outside + inside, device=device)
        )
        self._prefixes.swapped(inside, outside)
        moved = dict(zip(outside, inside, strict=True))
        return {row: moved.get(slot, slot) for row, slot in slot_of.items()}

    def _prefix(self, piece: Piece, at: int, pieces: Pieces) -> Prefix:
        return Prefix(piece.prefix_ids(at), image_identity(pieces.chats[piece.rows[at]]))

    def _store(self, piece: Piece, slots: Sequence[int], pieces: Pieces) -> None:
        """Prefill the prefixes of a piece into slots."""
        pad = self._backbone.tokenizer.pad_token_id
        tokens, width = piece.cut([0] * len(piece.rows), piece.prefixes, pad)
        images = {name: value for name, value in piece.inputs.items() if name not in PER_TOKEN}
        self._passes.prompt({**tokens, **images}, slots)
        rendered = pieces.rendered(piece.rows) or [()] * len(piece.rows)
        self._prefixes.put(
            slots,
            [
                Kept(
                    self._prefix(piece, at, pieces),
                    (width - length, width),
                    joint_of(rendered[at], pieces.image_tokens, *piece.tail(at)),
                )
                for at, length in enumerate(piece.prefixes)
            ],
        )
