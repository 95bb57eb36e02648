"""The rows of a call, encoded piece by piece on a worker thread while the model works on the piece before."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.encoding import Encoded, prefill_kwargs
from shiftdc_eval.backbones.families import image_placeholders
from shiftdc_eval.backbones.fast.prompts import Piece, piece_of
from shiftdc_eval.backbones.loaded_model import LoadedModel

PIECE_ROWS = 16
"""Rows that are encoded and prefilled together."""
AHEAD = 2
"""Pieces that are encoded before they are asked for."""
WORKER = ThreadPoolExecutor(1, thread_name_prefix="shiftdc-encode")
"""One thread: tokenizers keep their padding settings as state and do not bear two callers."""


class Pieces:
    """Pieces of a call, longest requests first: like widths stand together, and later ones fit the first's room.

    Args:
        backbone: encodes.
        chats: the rows, all with images or all without.
    """

    def __init__(self, backbone: LoadedModel, chats: Sequence[Chat]) -> None:
        self._backbone = backbone
        self.chats = chats
        self.size = PIECE_ROWS
        """Rows of a piece at most."""
        self.lengths: dict[int, int] = {}
        """Prompt tokens of each row seen so far."""
        self.image_tokens = set(image_placeholders(backbone.model.config))
        """Ids that stand for images."""

    def __iter__(self) -> Generator[Piece]:
        return self.of(range(len(self.chats)))

    def of(self, rows: Sequence[int]) -> Generator[Piece]:
        """Pieces of some rows."""
        order = sorted(rows, key=lambda row: -len(self.chats[row].request))
        groups = [order[start : start + self.size] for start in range(0, len(order), self.size)]
        waiting: list[Future[Encoded]] = []
        try:
            for at, group in enumerate(groups):
                for coming in groups[at + len(waiting) : at + AHEAD + 1]:
                    waiting.append(WORKER.submit(self._encoded, coming))
                yield self._piece(group, waiting.pop(0).result())
        finally:  # whoever stops early may use the tokenizer at once
            wait([future for future in waiting if not future.cancel()])

    def rendered(self, rows: Sequence[int]) -> Sequence[Sequence[int]] | None:
        """Token ids of some rows' prompts before room is made for images; None where that is not known."""
        return WORKER.submit(self._backbone.rendered, [self.chats[row] for row in rows]).result()

    def _encoded(self, rows: Sequence[int]) -> Encoded:
        encoded = self._backbone.features([self.chats[row] for row in rows])
        return encoded.pinned() if self._backbone.device.type == "cuda" else encoded

    def _piece(self, rows: Sequence[int], encoded: Encoded) -> Piece:
        kwargs = prefill_kwargs(self._backbone.model, encoded)
        piece = piece_of(rows, {**encoded.inputs, **kwargs}, sorted(self.image_tokens))
        self.lengths.update(zip(rows, piece.lengths, strict=True))
        return piece
