"""The fast engine: stored image prefixes, a static cache, CUDA graphs, and rows that come and go.

The plain path (transformers' `generate`) is the reference; in float32 both give the same tokens, which the
contract test of every family compares. What the engine does not do the plain path answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.fast.decoding import Loop
from shiftdc_eval.backbones.fast.pieces import Pieces
from shiftdc_eval.backbones.fast.prefixes import Kept, Prefix, Prefixes, Tail, joint_of, padded
from shiftdc_eval.backbones.fast.prompts import PER_TOKEN, Piece, image_identity, suffix_mask, visible
from shiftdc_eval.backbones.fast.slots import Slots, as_rows, rounded, suffix, whole
from shiftdc_eval.backbones.fast.stepping import Mode, Stepper, additive, cache_argument
from shiftdc_eval.backbones.generation import GenerationSettings, sampling_processors
from shiftdc_eval.errors import ModelError
from shiftdc_eval.steering import Edit, edit_last_token, record_last_token

if TYPE_CHECKING:
    from shiftdc_eval.backbones.backbone import Backbone

SUFFIX_TOKENS = 16_384
"""Tokens of suffixes that are prefilled together."""
MEMORY_SHARE = 0.9
"""Share of a GPU's free memory that slots may take."""
Edits = Callable[[list[int]], Mapping[int, Edit]]


class _CannotShare(Exception):
    """The rows of a call do not fit into memory together, or a prompt ends with its image."""


class FastEngine:
    """Answers rows of one kind (all with images, or all without) for a backbone.

    Args:
        backbone: the face; the engine uses its model and its encoding.
        mode: how decode steps run; None takes `compile` on CUDA and `eager` elsewhere.
    """

    def __init__(self, backbone: Backbone, *, mode: Mode | None = None) -> None:
        self._backbone = backbone
        self._model = model = backbone.model
        self._head = model.get_output_embeddings()
        self._decoder = model.get_decoder()
        self._additive = model.config._attn_implementation == "eager"
        text = model.config.get_text_config()
        heads = text.num_attention_heads
        self.slots = Slots(
            layers=len(backbone.layers),
            heads=getattr(text, "num_key_value_heads", None) or heads,
            size=getattr(text, "head_dim", None) or text.hidden_size // heads,
            dtype=backbone.dtype,
            device=backbone.device,
        )
        self.slots.most = self.capacity
        on_gpu = backbone.device.type == "cuda"
        self.stepper = Stepper(model, self.slots, mode=mode or ("compile" if on_gpu else "eager"))
        self.prefixes = Prefixes(self.slots)
        self._shared_images: list[Any] = []

    @contextmanager
    def sharing(self, chats: Sequence[Chat]) -> Iterator[None]:
        """Keep the image prefixes of prompts about these chats' images for further prompts about them."""
        # images are told apart by identity: the list keeps them alive while their prefixes are kept
        before = len(self._shared_images)
        self._shared_images.extend(image for chat in chats for image in chat.images)
        try:
            yield
        finally:
            del self._shared_images[before:]
            if not before:
                self.prefixes.forget()

    def shares(self, chats: Sequence[Chat]) -> bool:
        """Whether these chats' image prefixes are to be kept."""
        known = {id(image) for image in self._shared_images}
        return all(chat.images and all(id(image) in known for image in chat.images) for chat in chats)

    def release(self) -> None:
        """Give the slots' memory back; the next call takes it anew."""
        self.prefixes.forget()
        self.slots.release()

    def capacity(self, columns: int) -> int:
        """Rows of so many columns that fit into memory."""
        device = self._backbone.device
        if device.type != "cuda":
            return 1 << 20
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        mine = self.slots.rows * self.slots.columns * self.slots.bytes_per_token
        share = MEMORY_SHARE * (free + unused + mine) - self._workspace()
        return max(1, int(share // (rounded(columns) * self.slots.bytes_per_token)))

    def _workspace(self) -> int:
        """Memory that a prefill takes beside the slots, estimated from the widest activations."""
        text = self._model.config.get_text_config()
        a_token = 4 * text.hidden_size + 3 * text.intermediate_size
        return int(SUFFIX_TOKENS * a_token * self._backbone.dtype.itemsize)

    @torch.no_grad()
    def generate(
        self,
        chats: Sequence[Chat],
        settings: GenerationSettings,
        *,
        seeds: Sequence[str],
        edits: Edits | None,
        extra: Sequence[LogitsProcessor] = (),
    ) -> list[tuple[int, list[int]]]:
        """Answer rows.

        Args:
            chats: all with images, or all without.
            settings: decoding settings.
            seeds: one a row, for sampling.
            edits: gives the edits of the last prompt token for some rows (indices into `chats`).
            extra: logits processors put before sampling; their `rows` tells whose scores they are given.

        Returns:
            Prompt length and answer tokens of each row, in order.

        Raises:
            ModelError: a layer that was to be edited was not reached.
        """
        pieces = Pieces(self._backbone, chats)
        vocabulary = self._head.weight.shape[0]
        ends = self._model.generation_config.eos_token_id
        loop = Loop(
            self.slots,
            self.stepper,
            new_tokens=settings.max_new_tokens,
            ends=ends if isinstance(ends, list) else [] if ends is None else [ends],
            forbidden=[token for token in self._backbone.placeholder_ids() if token < vocabulary],
            processors=LogitsProcessorList([*extra, *sampling_processors(settings, seeds)]),
            keep=self.shares(chats),
        )
        if loop.keep:
            try:
                self._shared(pieces, loop, edits)
            except _CannotShare:
                loop.keep = False
        if not loop.keep:
            self._streamed(pieces, loop, edits)
        return [(pieces.lengths[row], loop.finished[row]) for row in range(len(chats))]

    @torch.no_grad()
    def activations(self, chats: Sequence[Chat], layers: Sequence[int]) -> Tensor | None:
        """Last-token activations `[rows, layers, hidden]` of prompts whose image prefixes are kept.

        None where they do not fit into memory together.
        """
        rows: list[Tensor | None] = [None] * len(chats)
        try:
            placed = self._placed(Pieces(self._backbone, chats), 0)
        except _CannotShare:
            return None
        for tails in self._chunks(placed):
            with record_last_token(self._backbone.layers, -1, only=sorted(set(layers))) as seen:
                self._suffix(tails)
            for tail, activation in zip(tails, torch.stack([seen[at] for at in layers], 1), strict=True):
                rows[tail.row] = activation
        return torch.stack([row for row in rows if row is not None])

    def _streamed(self, pieces: Pieces, loop: Loop, edits: Edits | None) -> None:
        """Rows enter piece by piece as slots become free; nothing is kept."""
        self.prefixes.forget()
        most = min(self._backbone.rows_at_once or len(pieces.chats), len(pieces.chats))
        pieces.size = min(pieces.size, most)
        waiting = iter(pieces)
        piece = next(waiting, None)
        while piece is not None or loop.live:
            while piece is not None:
                if not loop.live:
                    base = rounded(piece.width)
                    fitting = min(most, self.capacity(base + loop.ring))
                    if fitting < len(piece.rows):  # smaller pieces from here on
                        pieces.size = fitting
                        waiting = pieces.of([*piece.rows, *(row for rest in waiting for row in rest.rows)])
                        piece = next(waiting)
                    loop.open(fitting, base, piece.position_rows)
                elif piece.width > loop.base or len(piece.rows) > len(loop.free):
                    break
                slots = loop.free[: len(piece.rows)]
                with self._edited(piece.rows, edits):
                    hidden = self._prompt(piece.inputs, slots)
                spans = [[(piece.width - length, piece.width)] for length in piece.lengths]
                after = piece.inputs["position_ids"][..., -1:] + 1
                loop.seat(slots, piece.rows, visible(spans, loop.base), after, self._head(hidden[:, -1]))
                piece = next(waiting, None)
            loop.advance(compact=piece is None)

    def _shared(self, pieces: Pieces, loop: Loop, edits: Edits | None) -> None:
        """Every row has a slot where its image prefix lies; what follows the prefix runs on it."""
        tails = self._placed(pieces, loop.ring)
        start = self.prefixes.end
        base = rounded(start + max(len(tail.ids) for tail in tails))
        loop.open(len(tails), base, tails[0].position_rows)
        for chunk in self._chunks(tails):
            with self._edited([tail.row for tail in chunk], edits):
                hidden = self._suffix(chunk)
            slots = [tail.slot for tail in chunk]
            end = start + hidden.shape[1]
            spans = [
                [span, (end - len(tail.ids), end)]
                for span, tail in zip(self.prefixes.spans(slots), chunk, strict=True)
            ]
            after = torch.stack([tail.positions[..., -1:] + 1 for tail in chunk], dim=-2)
            loop.seat(
                slots, [tail.row for tail in chunk], visible(spans, base), after, self._head(hidden[:, -1])
            )
        while loop.live:
            loop.advance(compact=True)
        for some, others in loop.moved:
            self.prefixes.swapped(some, others)

    def _placed(self, pieces: Pieces, ring: int) -> list[Tail]:
        """Store the image prefixes that are not stored yet; the rows' tails, by slot, in the first slots.

        Raises:
            _CannotShare: the rows do not fit into memory together, or a prompt ends with its image.
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
                    raise _CannotShare
                slot = self.prefixes.find(self._prefix(piece, at, pieces), set(taken))
                if slot is None:
                    missing.append(row)
                else:
                    taken[slot] = row
            # images cannot be cut out of a piece that is encoded: rows that miss theirs are encoded by themselves
            for part in [piece] if len(missing) == len(piece.rows) else pieces.of(missing):
                slots = self.prefixes.empty(len(part.rows), set(taken))
                self._store(part, slots, pieces)
                taken.update(zip(slots, part.rows, strict=True))
        slot_of = self._in_front({row: slot for slot, row in taken.items()})
        return [
            Tail(row, slot, *tails[row]) for row, slot in sorted(slot_of.items(), key=lambda pair: pair[1])
        ]

    def _join(self, pieces: Pieces, taken: dict[int, int], tails: dict[int, tuple[Tensor, Tensor]]) -> None:
        """Find the rows whose prefix is stored by their rendering alone: their images are not looked at again."""
        if not self.prefixes.end:
            return
        for row, rendered in enumerate(pieces.rendered(range(len(pieces.chats))) or []):
            images = image_identity(pieces.chats[row])
            found = self.prefixes.join(rendered, images, pieces.image_tokens, set(taken))
            if found is not None:
                slot, length, ids, positions = found
                taken[slot] = row
                tails[row] = ids, positions
                pieces.lengths[row] = length + len(ids)

    def _make_room(self, rows: int, columns: int) -> None:
        """Enough slots for all rows of a call.

        Raises:
            _CannotShare: they do not fit into memory together.
        """
        if self.slots.rows >= rows and self.slots.columns >= columns:
            return
        if rows > self.capacity(columns):
            raise _CannotShare
        self.slots.reserve(rows, columns, keep=self.prefixes.end)

    def _in_front(self, slot_of: dict[int, int]) -> dict[int, int]:
        """Move the rows of this call into the first slots, what lay there out of the way."""
        count = len(slot_of)
        used = set(slot_of.values())
        outside = [slot for slot in used if slot >= count]
        if not outside:
            return slot_of
        inside = [slot for slot in range(count) if slot not in used]
        device = self.slots.device
        self.slots.move(
            torch.tensor(inside + outside, device=device), torch.tensor(outside + inside, device=device)
        )
        self.prefixes.swapped(inside, outside)
        moved = dict(zip(outside, inside, strict=True))
        return {row: moved.get(slot, slot) for row, slot in slot_of.items()}

    def _prefix(self, piece: Piece, at: int, pieces: Pieces) -> Prefix:
        return Prefix(piece.prefix_ids(at), image_identity(pieces.chats[piece.rows[at]]))

    def _store(self, piece: Piece, slots: Sequence[int], pieces: Pieces) -> None:
        """Prefill the prefixes of a piece into slots."""
        pad = self._backbone.tokenizer.pad_token_id
        tokens, width = piece.cut([0] * len(piece.rows), piece.prefixes, pad)
        images = {name: value for name, value in piece.inputs.items() if name not in PER_TOKEN}
        self._prompt({**tokens, **images}, slots)
        rendered = pieces.rendered(piece.rows) or [()] * len(piece.rows)
        self.prefixes.put(
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

    def _chunks(self, tails: Sequence[Tail]) -> Iterator[list[Tail]]:
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

    def _prompt(self, inputs: Mapping[str, Tensor], slots: Sequence[int]) -> Tensor:
        """Run whole prompts (or prefixes) and store them; hidden states `[rows, width, hidden]`."""
        device = self._backbone.device
        given = {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
        prepared = self._model.prepare_inputs_for_generation(
            given.pop("input_ids"), is_first_iteration=True, use_cache=True, **given
        )
        prepared.pop("logits_to_keep", None)
        cache = whole(self.slots, as_rows(slots, device), 0)
        prepared[cache_argument(self._model.base_model)] = cache
        hidden: Tensor = self._model.base_model(**prepared).last_hidden_state
        return hidden

    def _suffix(self, tails: Sequence[Tail]) -> Tensor:
        """Run what follows the kept prefixes; hidden states `[rows, width, hidden]`, left-padded."""
        device = self._backbone.device
        slots = [tail.slot for tail in tails]
        start = self.prefixes.end
        ids, mask, positions = (tensor.to(device, non_blocking=True) for tensor in padded(tails))
        self.slots.reserve(self.slots.rows, start + ids.shape[1], keep=start)
        seen = visible([[span] for span in self.prefixes.spans(slots)], start).to(device)
        allowed = suffix_mask(seen, mask)
        hidden: Tensor = self._decoder(
            input_ids=ids,
            attention_mask=additive(allowed, self._head.weight.dtype) if self._additive else allowed,
            position_ids=positions,
            use_cache=True,
            **{self.stepper.cache_argument: suffix(self.slots, as_rows(slots, device), start)},
        ).last_hidden_state
        return hidden

    @contextmanager
    def _edited(self, rows: Sequence[int], edits: Edits | None) -> Iterator[None]:
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
