"""The decode loop: rows sit in slots, are stepped together, leave when they end, and make room for others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from shiftdc_eval.backbones.fast.slots import Slots
from shiftdc_eval.backbones.fast.stepping import Stepper

CHECK_EVERY = {"cuda": 8, "cpu": 1}
"""Decode steps between two looks at which rows have ended, by device: a GPU's looks wait for all steps queued."""
SMALLEST = 8
"""Rows below which slots are not compacted on a GPU: a smaller batch would hardly be faster."""

FEWEST = 128
"""Columns of the ring that are attended to at least; twice as many whenever those are full: few shapes occur."""


class Loop:
    """Decoding of one call.

    Columns `base` to `base + ring` are a ring: all slots write step `t` into the same column, and a row never
    outlives one turn of it.

    Args:
        slots: keys and values.
        stepper: runs one step.
        new_tokens: length limit of an answer.
        ends: ids that end an answer.
        stop: how many tokens of an answer are left where a stop string ends it, None while none does.
        forbidden: ids that an answer must not hold.
        processors: logits processors; what has `rows` is told whose scores it is given.
        keep: slots without a row hold something that must survive (a kept prefix).
    """

    def __init__(
        self,
        slots: Slots,
        stepper: Stepper,
        *,
        new_tokens: int,
        ends: Sequence[int],
        stop: Callable[[list[int]], int | None] | None,
        forbidden: Sequence[int],
        processors: LogitsProcessorList,
        keep: bool,
    ) -> None:
        self.slots, self.stepper = slots, stepper
        self.new_tokens, self.ring = new_tokens, max(0, new_tokens - 1)
        self.keep = keep
        """Slots without a row hold something that must survive (a kept prefix)."""
        self._ends, self._stop, self._processors = ends, stop, processors
        device = slots.device
        self._forbidden = torch.tensor(list(forbidden), dtype=torch.long, device=device)
        self._end_ids = torch.tensor(list(ends), dtype=torch.long, device=device)
        self.row_of: list[int | None] = []
        self._age: list[int] = []
        self.finished: dict[int, list[int]] = {}
        """Row -> its token ids, for rows that have left."""
        self.moved: list[tuple[list[int], list[int]]] = []
        """Moves of slots (targets, sources) that the caller has not followed yet."""
        self._base = self._at = 0

    def open(self, rows: int, base: int, position_rows: int) -> None:
        """Take so many slots; prompts lie left of column `base`. Only while no row is seated."""
        self.slots.reserve(rows, base + self.ring, keep=base if self.keep else 0)
        self.stepper.prepare(position_rows)
        self._base, self._at = base, 0
        self.row_of, self._age = [None] * rows, [0] * rows
        device = self.slots.device
        self._out = torch.zeros(self.slots.rows, self.new_tokens, dtype=torch.long, device=device)
        self._count = torch.zeros(self.slots.rows, dtype=torch.long, device=device)
        self._ended = torch.zeros(self.slots.rows, dtype=torch.bool, device=device)
        self.stepper.mask[:rows] = False
        # a slot without a row sees one column of its own, so that its softmax is defined
        self.stepper.mask[:rows, :, :, base if self.ring else 0] = True

    @property
    def base(self) -> int:
        """First column of the ring."""
        return self._base

    @property
    def live(self) -> list[int]:
        """Slots with a row."""
        return [slot for slot, row in enumerate(self.row_of) if row is not None]

    @property
    def free(self) -> list[int]:
        """Slots without a row."""
        return [slot for slot, row in enumerate(self.row_of) if row is None]

    def seat(
        self, slots: Sequence[int], rows: Sequence[int], seen: Tensor, positions: Tensor, logits: Tensor
    ) -> None:
        """Put rows whose prompts are stored into slots and choose their first tokens.

        Args:
            slots: where the rows' keys and values lie.
            rows: row indices in the call.
            seen: `[rows, columns up to base]`, the prompt's columns.
            positions: `[..., rows, 1]`, position of the first answer token.
            logits: `[rows, vocabulary]` after the prompt.
        """
        device = logits.device
        at = torch.tensor(list(slots), device=device)
        token = self._choose(logits, list(rows))
        self._out[at, 0] = token
        self._count[at] = 1
        self._ended[at] = torch.isin(token, self._end_ids)
        self.stepper.tokens[at] = token[:, None]
        self.stepper.positions[..., at, :] = positions.to(device)
        self.stepper.mask[at] = False
        self.stepper.mask[at, 0, 0, : seen.shape[1]] = seen.to(device)
        for slot, row in zip(slots, rows, strict=True):
            self.row_of[slot], self._age[slot] = row, 1

    def advance(self, *, compact: bool) -> None:
        """Step until rows may have ended; rows that have leave. With `compact` the rest close ranks."""
        live = self.live
        if not live:
            return
        every = CHECK_EVERY.get(self.slots.device.type, 1)
        left = min(self.new_tokens - self._age[slot] for slot in live)
        for _ in range(min(left, every) if self._ends or self._stop else left):
            self._step()
        self._harvest()
        if compact:
            self._compact()

    def _step(self) -> None:
        rows, stepper = len(self.row_of), self.stepper
        column = self._base + self._at % self.ring
        self._at += 1
        stepper.column.fill_(column)
        stepper.mask[:rows, :, :, column] = True
        reached = max(FEWEST, 1 << (self._at - 1).bit_length())
        logits = stepper(rows, stepper.columns(self._base + min(reached, self.ring)))
        token = self._choose(logits, [-1 if row is None else row for row in self.row_of])
        count = self._count[:rows]
        self._out[:rows].scatter_(1, count.clamp(max=self.new_tokens - 1)[:, None], token[:, None])
        count += 1
        if self._ends:
            self._ended[:rows] |= torch.isin(token, self._end_ids)
        stepper.tokens[:rows] = token[:, None]
        stepper.positions[..., :rows, :] += 1
        for slot in self.live:
            self._age[slot] += 1

    def _choose(self, logits: Tensor, rows: list[int]) -> Tensor:
        scores = logits.to(torch.float32, copy=True)
        scores.index_fill_(1, self._forbidden, -torch.inf)
        for processor in self._processors:
            if hasattr(processor, "rows"):
                processor.rows = rows
            scores = processor(None, scores)
        return scores.argmax(-1)

    def _harvest(self) -> None:
        """Rows whose answers have ended leave."""
        live = self.live
        ended = self._ended.tolist() if self._ends else [False] * len(self.row_of)
        leaving = {slot for slot in live if ended[slot] or self._age[slot] >= self.new_tokens}
        asked = live if self._stop else sorted(leaving)
        if not asked:
            return
        tokens = self._out[torch.tensor(asked, device=self._out.device)].tolist()
        for slot, row_tokens in zip(asked, tokens, strict=True):
            ids = row_tokens[: self._age[slot]]
            length = self._stop(ids) if self._stop else None
            if length is None and slot not in leaving:
                continue
            row = self.row_of[slot]
            assert row is not None
            self.finished[row] = ids[:length]
            self.row_of[slot] = None

    def _compact(self) -> None:
        """Halve the slots in use as often as the live rows allow."""
        live, rows = self.live, len(self.row_of)
        smallest = SMALLEST if self.slots.device.type == "cuda" else 1
        wanted = rows
        while wanted % 2 == 0 and wanted // 2 >= max(len(live), smallest):
            wanted //= 2
        if wanted == rows or not live:
            return
        sources = [slot for slot in live if slot >= wanted]
        targets = [slot for slot in range(wanted) if self.row_of[slot] is None][: len(sources)]
        if sources:
            self.swap(targets, sources)
        del self.row_of[wanted:], self._age[wanted:]

    def swap(self, some: list[int], others: list[int]) -> None:
        """Exchange the content of slots pairwise; without `keep`, what lay in `some` is lost."""
        both = (some + others, others + some) if self.keep else (some, others)
        device = self._out.device
        targets, sources = (torch.tensor(slots, device=device) for slots in both)
        self.slots.move(targets, sources)
        stepper = self.stepper
        for state in (self._out, self._count, self._ended, stepper.tokens, stepper.mask):
            state[targets] = state[sources]
        stepper.positions[..., targets, :] = stepper.positions[..., sources, :]
        for one, other in zip(some, others, strict=True):
            self.row_of[one], self.row_of[other] = self.row_of[other], self.row_of[one]
            self._age[one], self._age[other] = self._age[other], self._age[one]
        self.moved.append((some, others))
