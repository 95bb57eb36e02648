"""The fast engine: stored image prefixes, a static cache, CUDA graphs, and rows that come and go.

The plain path (transformers' `generate`) is the reference; in float32 both give the same tokens, which the
contract test of every family compares. What the engine does not do the plain path answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.fast.decoding import Loop
from shiftdc_eval.backbones.fast.passes import SUFFIX_TOKENS, Edits, Passes, chunks
from shiftdc_eval.backbones.fast.pieces import PIECE_ROWS, Pieces
from shiftdc_eval.backbones.fast.placing import CannotShare, Placing
from shiftdc_eval.backbones.fast.prefixes import Prefixes
from shiftdc_eval.backbones.fast.prompts import visible
from shiftdc_eval.backbones.fast.slots import Slots, rounded
from shiftdc_eval.backbones.fast.stepping import Mode, Stepper
from shiftdc_eval.backbones.fast.stopping import stopper
from shiftdc_eval.backbones.generation import GenerationSettings, sampling_processors
from shiftdc_eval.backbones.loaded_model import LoadedModel
from shiftdc_eval.steering import record_last_token

MEMORY_SHARE = 0.9
"""Share of a GPU's free memory that slots may take."""
PATCHES_A_TOKEN = 4
"""Patches of an image that most families merge into a token."""


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """Makes a GPU the current one, whose stream CUDA graphs are recorded on and replayed on."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


class FastEngine:
    """Answers rows of one kind (all with images, or all without) for a backbone.

    Args:
        backbone: the face; the engine uses its model and its encoding.
        mode: how decode steps run; None takes `graph` on CUDA and `eager` elsewhere.
    """

    def __init__(self, backbone: LoadedModel, *, mode: Mode | None = None) -> None:
        self._backbone = backbone
        self._model = model = backbone.model
        text = model.config.get_text_config()
        heads = text.num_attention_heads
        self.slots = Slots(
            layers=len(backbone.layers),
            heads=getattr(text, "num_key_value_heads", None) or heads,
            size=getattr(text, "head_dim", None) or text.hidden_size // heads,
            dtype=backbone.dtype,
            device=backbone.device,
        )
        self.slots.most = lambda columns: self.capacity(columns)
        on_gpu = backbone.device.type == "cuda"
        self.stepper = Stepper(model, self.slots, mode=mode or ("graph" if on_gpu else "eager"))
        self.prefixes = Prefixes(self.slots)
        self._passes = Passes(backbone, self.slots, self.prefixes)
        self._placing = Placing(backbone, self.slots, self.prefixes, self._passes)
        self._shared_images: list[Any] = []
        self._stoppers: dict[tuple[str, ...], Callable[[list[int]], int | None]] = {}

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
            self.prefixes.only({id(image) for image in self._shared_images})

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
        share = MEMORY_SHARE * (free + unused + mine) - self._workspace(columns)
        rows = max(1, int(share // (rounded(columns) * self.slots.bytes_per_token + self._logits())))
        # full eights suit matrix kernels, and can be halved when rows end
        return rows - rows % 8 if rows > 8 else rows

    def _logits(self) -> int:
        """Memory that a row's logits take while its next token is chosen: the model's, a copy, and a change of it."""
        vocabulary = self._model.get_output_embeddings().weight.shape[0]
        return int(vocabulary * (self._backbone.dtype.itemsize + 2 * torch.float32.itemsize))

    def _workspace(self, columns: int) -> int:
        """Memory that a prefill takes beside the slots, estimated from the widest activations."""
        text = self._model.config.get_text_config()
        # whole prompts go through by pieces: with images of thousands of tokens one holds more than suffixes do
        tokens = max(SUFFIX_TOKENS, PIECE_ROWS * columns)
        language = tokens * (4 * text.hidden_size + 3 * text.intermediate_size)
        return int(max(language, self._vision(columns)) * self._backbone.dtype.itemsize)

    def _vision(self, columns: int) -> int:
        """Numbers that the vision tower holds for a piece, as if all columns were an image's."""
        vision = getattr(self._model.config, "vision_config", None)
        width = getattr(vision, "hidden_size", None) or 0
        inner = getattr(vision, "intermediate_size", None) or 4 * width
        return int(PIECE_ROWS * columns * PATCHES_A_TOKEN * (4 * width + 2 * inner))

    def _stop(self, strings: tuple[str, ...]) -> Callable[[list[int]], int | None] | None:
        """Ends answers at stop strings; kept, because reading the vocabulary for it takes a while."""
        if strings and strings not in self._stoppers:
            self._stoppers[strings] = stopper(self._backbone.tokenizer, strings)
        return self._stoppers.get(strings)

    @torch.inference_mode(False)  # slots outlive a call; made in inference mode none outside could write them
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
        vocabulary = self._passes.head.weight.shape[0]
        ends = self._model.generation_config.eos_token_id
        loop = Loop(
            self.slots,
            self.stepper,
            new_tokens=settings.max_new_tokens,
            stop=self._stop(tuple(self._backbone.stop_strings)),
            ends=ends if isinstance(ends, list) else [] if ends is None else [ends],
            forbidden=[token for token in self._backbone.placeholder_ids() if token < vocabulary],
            processors=LogitsProcessorList([*extra, *sampling_processors(settings, seeds)]),
            keep=self.shares(chats),
        )
        with on_device(self._backbone.device):
            if loop.keep:
                try:
                    self._shared(pieces, loop, edits)
                except CannotShare:
                    loop.keep = False
            if not loop.keep:
                self._streamed(pieces, loop, edits)
        return [(pieces.lengths[row], loop.finished[row]) for row in range(len(chats))]

    @torch.inference_mode(False)
    @torch.no_grad()
    def activations(self, chats: Sequence[Chat], layers: Sequence[int]) -> Tensor | None:
        """Last-token activations `[rows, layers, hidden]` of prompts whose image prefixes are kept.

        None where they do not fit into memory together.
        """
        rows: list[Tensor | None] = [None] * len(chats)
        try:
            placed = self._placing.placed(Pieces(self._backbone, chats), 0)
        except CannotShare:
            return None
        for tails in chunks(placed):
            with record_last_token(self._backbone.layers, -1, only=sorted(set(layers))) as seen:
                self._passes.suffix(tails)
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
        left = set(range(len(pieces.chats)))
        while piece is not None or loop.live:
            while piece is not None:
                if not loop.live:
                    base = rounded(piece.width)
                    fitting = min(most, self.capacity(base + loop.ring))
                    if fitting < len(piece.rows):  # smaller pieces from here on
                        pieces.size = fitting
                        waiting.close()
                        waiting = pieces.of(sorted(left))
                        piece = next(waiting)
                    loop.open(fitting, base, piece.position_rows)
                elif piece.width > loop.base or len(piece.rows) > len(loop.free):
                    break
                slots = loop.free[: len(piece.rows)]
                left.difference_update(piece.rows)
                with self._passes.edited(piece.rows, edits):
                    hidden = self._passes.prompt(piece.inputs, slots)
                spans = [[(piece.width - length, piece.width)] for length in piece.lengths]
                after = piece.inputs["position_ids"][..., -1:] + 1
                loop.seat(
                    slots, piece.rows, visible(spans, loop.base), after, self._passes.head(hidden[:, -1])
                )
                piece = next(waiting, None)
            loop.advance(compact=piece is None)

    def _shared(self, pieces: Pieces, loop: Loop, edits: Edits | None) -> None:
        """Every row has a slot where its image prefix lies; what follows the prefix runs on it."""
        tails = self._placing.placed(pieces, loop.ring)
        start = self.prefixes.end
        base = rounded(start + max(len(tail.ids) for tail in tails))
        loop.open(len(tails), base, tails[0].position_rows)
        for chunk in chunks(tails):
            with self._passes.edited([tail.row for tail in chunk], edits):
                hidden = self._passes.suffix(chunk)
            slots = [tail.slot for tail in chunk]
            end = start + hidden.shape[1]
            spans = [
                [span, (end - len(tail.ids), end)]
                for span, tail in zip(self.prefixes.spans(slots), chunk, strict=True)
            ]
            after = torch.stack([tail.positions[..., -1:] + 1 for tail in chunk], dim=-2)
            loop.seat(
                slots,
                [tail.row for tail in chunk],
                visible(spans, base),
                after,
                self._passes.head(hidden[:, -1]),
            )
        while loop.live:
            loop.advance(compact=True)
        for some, others in loop.moved:
            self.prefixes.swapped(some, others)
