"""Keys and values of all rows, allocated once: a fixed number of slots with a fixed number of columns.

A slot holds one row. Its columns are, from left to right, a prefix that may be kept over several prompts, the
rest of the prompt, and a ring that decoding writes into. Keys are stored with their rotary positions, so a
column's place means nothing: masks say what a token sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

FINE, COARSE, FEW = 16, 64, 1024


def rounded(columns: int) -> int:
    """Columns are allocated and attended to in multiples of 16 (of 64 from 1,024 on), so that few shapes occur."""
    step = FINE if columns <= FEW else COARSE
    return -(-columns // step) * step


class Slots:
    """The memory: `[slots, key-value heads, columns, head size]` twice for each decoder layer.

    Args:
        layers: number of decoder layers.
        heads: key-value heads.
        size: head size.
        dtype: of keys and values.
        device: where they live.
    """

    def __init__(
        self, *, layers: int, heads: int, size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._layers, self._heads, self._size = layers, heads, size
        self.dtype, self.device = dtype, device
        self.rows = self.columns = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.generation = 0
        """Raised whenever the memory moves: what was recorded on the old one is worthless."""
        self.before_moving: Callable[[], None] = lambda: None
        """Called before memory is given back, so that nothing else holds on to it."""
        self.most: Callable[[int], int] = lambda _columns: 1 << 20
        """Rows of so many columns that fit into memory."""

    @property
    def bytes_per_token(self) -> int:
        """Memory that one token of one row takes."""
        return 2 * self._layers * self._heads * self._size * self.dtype.itemsize

    def reserve(self, rows: int, columns: int, *, keep: int = 0) -> None:
        """Make room for at least so many rows and columns; the first `keep` columns of old rows stay.

        Layers are moved one by one, so that never more than one layer exists twice.
        """
        if rows <= self.rows and columns <= self.columns:
            return
        keep = min(keep, self.columns)
        both = max(rows, self.rows), rounded(max(columns, self.columns))
        # what earlier calls needed is kept where it fits, so that calls of two shapes do not take turns
        fits = keep or both[0] <= self.most(both[1])
        rows, columns = both if fits else (rows, rounded(columns))
        self.before_moving()
        try:
            self._fill((rows, self._heads, columns, self._size), keep)
        except BaseException:  # layers of two sizes are of no use to anybody
            self.release()
            raise
        self.rows, self.columns = rows, columns
        self.generation += 1

    def _fill(self, shape: tuple[int, ...], keep: int) -> None:
        for memory in (self.keys, self.values):
            if not keep:
                memory.clear()
            for layer in range(self._layers):
                new = torch.zeros(shape, dtype=self.dtype, device=self.device)
                if keep:
                    new[: self.rows, :, :keep] = memory[layer][:, :, :keep]
                    memory[layer] = new
                else:
                    memory.append(new)

    def release(self) -> None:
        """Give the memory back."""
        self.before_moving()
        # emptied, not replaced: frames of an error that is being handled may still hold the lists
        self.keys.clear()
        self.values.clear()
        self.rows = self.columns = 0
        self.generation += 1

    def move(self, targets: Tensor, sources: Tensor) -> None:
        """Row `targets[i]` becomes what row `sources[i]` was; rows may occur in both."""
        for memory in (self.keys, self.values):
            for layer in memory:
                layer[targets] = layer[sources]


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """What all layers of our caches share: transformers asks them how much they hold already."""

    is_compileable = False
    is_sliding = False

    def __init__(self, slots: Slots, layer: int) -> None:
        super().__init__()
        self.keys, self.values = slots.keys[layer], slots.values[layer]
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the memory is there."""

    def get_seq_length(self, *_: Any) -> int:
        """Prompts are always given whole, with their positions."""
        return 0

    def get_max_length(self) -> int:
        """No bound that transformers would have to know of."""
        return -1

    def get_max_cache_shape(self) -> int:
        """As `get_max_length`, under its former name."""
        return -1

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """Keys seen by a query without an explicit mask: those given with it."""
        length = query_length if isinstance(query_length, int) else query_length.shape[0]
        return int(length), 0


class WholeLayer(_Layer):
    """Stores a whole prompt (or prefix) and attends to nothing but itself.

    What an earlier row left in the slots is wiped: a mask hides it, but a NaN times zero is a NaN.
    """

    def __init__(self, slots: Slots, layer: int, rows: slice | Tensor, start: int) -> None:
        super().__init__(slots, layer)
        self._rows, self._start = rows, start

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write and hand back what was given."""
        end = self._start + key_states.shape[2]
        for memory, states in ((self.keys, key_states), (self.values, value_states)):
            memory[self._rows, :, self._start : end] = states
            memory[self._rows, :, end:] = 0
        return key_states, value_states


class SuffixLayer(_Layer):
    """Stores what follows a kept prefix and attends to both."""

    def __init__(self, slots: Slots, layer: int, rows: slice | Tensor, start: int) -> None:
        super().__init__(slots, layer)
        self._rows, self._start = rows, start

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write, and give all columns up to the end of what was written."""
        end = self._start + key_states.shape[2]
        self.keys[self._rows, :, self._start : end] = key_states
        self.values[self._rows, :, self._start : end] = value_states
        return self.keys[self._rows, :, :end], self.values[self._rows, :, :end]


class StepLayer(_Layer):
    """Stores one token of the first `rows` slots in the column that a tensor names; attends to all columns."""

    is_compileable = True

    def __init__(self, slots: Slots, layer: int, rows: int, columns: int, column: Tensor) -> None:
        super().__init__(slots, layer)
        self.keys = self.keys[:rows, :, :columns]
        self.values = self.values[:rows, :, :columns]
        self.column = column

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write one column in place and give all."""
        self.keys.index_copy_(2, self.column, key_states)
        self.values.index_copy_(2, self.column, value_states)
        return self.keys, self.values


def whole(slots: Slots, rows: slice | Tensor, start: int) -> Cache:
    """A cache through which prompts are written into slots from column `start` on."""
    return Cache(layers=[WholeLayer(slots, layer, rows, start) for layer in range(len(slots.keys))])


def suffix(slots: Slots, rows: slice | Tensor, start: int) -> Cache:
    """A cache through which suffixes are written behind `start` columns that they also see."""
    return Cache(layers=[SuffixLayer(slots, layer, rows, start) for layer in range(len(slots.keys))])


def step(slots: Slots, rows: int, columns: int, column: Tensor) -> Cache:
    """A cache for decoding one token of each of the first `rows` slots."""
    return Cache(layers=[StepLayer(slots, layer, rows, columns, column) for layer in range(len(slots.keys))])


def as_rows(slots: Sequence[int], device: torch.device) -> slice | Tensor:
    """Slots as a slice where they follow one another (no copy when read), else as an index."""
    first = slots[0]
    if list(slots) == list(range(first, first + len(slots))):
        return slice(first, first + len(slots))
    return torch.tensor(slots, device=device)
