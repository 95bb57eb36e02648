"""One decode step of all slots at once: eager, or as a CUDA graph."""

from __future__ import annotations

import gc
import inspect
import logging
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import torch
from torch import Tensor

from shiftdc_eval.backbones.fast.slots import Slots, rounded, step

Mode = Literal["eager", "graph"]
Shape = tuple[int, int]
"""Rows and columns of a step."""
Run = Callable[[], Tensor]
logger = logging.getLogger(__name__)
CAPTURE_TRIES = 2
"""Times that recording a shape's graph is tried before the shape is stepped eagerly."""


class Stepper:
    """Runs the decoder and the output layer on one token of each of the first slots.

    Its inputs are buffers with a fixed address: a CUDA graph reads them wherever it is replayed from.

    Args:
        model: the vision-language model.
        slots: keys and values.
        mode: `graph` replays a CUDA graph of the step, recorded once a shape; `eager` runs it each time.
    """

    def __init__(self, model: Any, slots: Slots, *, mode: Mode) -> None:
        self._decoder, self._head = model.get_decoder(), model.get_output_embeddings()
        self._slots = slots
        self.mode: Mode = mode
        self.cache_argument = cache_argument(self._decoder)
        self._runs: dict[Shape, tuple[Mode, Run]] = {}
        self.steps: Counter[tuple[Mode, int, int]] = Counter()
        """How, rows, columns -> steps run, for tests and cost tables."""
        self._generation = -1
        slots.before_moving = self._forget
        self._graphs: weakref.WeakSet[Any] = weakref.WeakSet()
        self._pool: Any = None
        self._stream: Any = None
        self.tokens = self.positions = self.mask = self.column = torch.empty(0)

    def prepare(self, position_rows: int) -> None:
        """Make the buffers fit the slots.

        Args:
            position_rows: 0 for one position a token, else how many (4 with multimodal positions).
        """
        same = self._generation == self._slots.generation
        wanted = (*((position_rows,) if position_rows else ()), self._slots.rows, 1)
        if same and tuple(self.positions.shape) == wanted:
            return
        device = self._slots.device
        self._forget()
        self.tokens = torch.zeros(self._slots.rows, 1, dtype=torch.long, device=device)
        self.positions = torch.zeros(wanted, dtype=torch.long, device=device)
        self.mask = torch.zeros(self._slots.rows, 1, 1, self._slots.columns, dtype=torch.bool, device=device)
        self.column = torch.zeros(1, dtype=torch.long, device=device)
        self._generation = self._slots.generation

    def columns(self, needed: int) -> int:
        """Columns to attend to."""
        return min(rounded(needed), self._slots.columns)

    def _forget(self) -> None:
        """What was recorded reads memory that is about to go."""
        self._runs.clear()
        self._pool = None

    def __call__(self, rows: int, columns: int) -> Tensor:
        """Logits of the next token, `[rows, vocabulary]`; overwritten by the next call."""
        shape = rows, columns
        if shape not in self._runs:
            self._runs[shape] = self._made(shape)
        how, run = self._runs[shape]
        self.steps[how, rows, columns] += 1
        return run()

    def _made(self, shape: Shape) -> tuple[Mode, Run]:
        rows, columns = shape
        cache = step(self._slots, rows, columns, self.column)

        def run() -> Tensor:
            return self._forward(rows, columns, cache)

        if self.mode == "eager" or self.column.device.type != "cuda":
            return "eager", run
        return self._recorded(run, shape)

    def _recorded(self, run: Run, shape: Shape) -> tuple[Mode, Run]:
        """A graph of the step; the step itself where it cannot be recorded, until the memory moves."""
        for left in reversed(range(CAPTURE_TRIES)):
            try:
                return "graph", self._graph(run)
            except Exception as error:  # whatever a capture dislikes, the eager step does the same
                self._abandon_pool()
                # ending a capture that broke off raises an error of its own
                cause = error.__context__ or error
                for found in (cause, error):
                    if isinstance(found, torch.OutOfMemoryError):
                        raise found from None
                logger.warning(
                    "decode step of %d rows and %d columns not captured as a CUDA graph (%s: %s); %s",
                    *shape,
                    type(cause).__name__,
                    _line(cause),
                    "trying once more" if left else "this shape goes on eagerly",
                )
        return "eager", run

    def _forward(self, rows: int, columns: int, cache: Any) -> Tensor:
        # numbers, not booleans, which every layer's attention would turn into numbers for itself
        mask = additive(self.mask[:rows, :, :, :columns], self._slots.dtype)
        hidden = self._decoder(
            input_ids=self.tokens[:rows],
            position_ids=self.positions[..., :rows, :],
            attention_mask=mask,
            use_cache=True,
            **{self.cache_argument: cache},
        ).last_hidden_state
        logits: Tensor = self._head(hidden[:, -1])
        return logits

    def _graph(self, run: Run) -> Run:
        # warming up writes what the step itself will write
        if self._stream is None:
            # of the model's own device, which the stream that torch would take need not be
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        pool = self._shared_pool()
        # the encoding thread may ask for pinned memory meanwhile: a capture of all threads would not bear it
        capture = torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local")
        # a capture that breaks off leaves its stream the current one
        with torch.cuda.stream(torch.cuda.current_stream()), own_workspaces(), undisturbed(), capture:
            logits = run()
        self._graphs.add(graph)

        def replay() -> Tensor:
            graph.replay()
            return logits

        return replay

    def _shared_pool(self) -> Any:
        """The memory of the graphs that are alive; new memory where none is: a pool dies with its last graph."""
        if self._pool is None or not self._graphs:
            self._pool = torch.cuda.graph_pool_handle()
        return self._pool

    def _abandon_pool(self) -> None:
        """Memory that a broken capture was recording into takes no second one; neither does its stream."""
        pool, self._pool, self._stream = self._pool, None, None
        if pool is not None:
            with suppress(RuntimeError, AttributeError):  # ended already, or another torch
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)


@contextmanager
def own_workspaces() -> Iterator[None]:
    """Let what is captured inside take cuBLAS workspaces from its own pool.

    cuBLAS keeps one workspace a stream for good. A graph that was recorded on one of an earlier pool, or of the
    ordinary memory, would go on writing there after whoever clears them (torch.compile does) has given it away.
    """
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep the garbage collector from freeing tensors, events or graphs of a GPU in the middle of a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as numbers that are added to attention scores: 0 where visible, the smallest number elsewhere."""
    # fused attention kernels want the last dimension contiguous
    numbers = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return numbers.masked_fill_(~mask, torch.finfo(dtype).min)


def cache_argument(decoder: Any) -> str:
    """Name under which a decoder takes its cache: `cache` from transformers 5.24 on."""
    return "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
