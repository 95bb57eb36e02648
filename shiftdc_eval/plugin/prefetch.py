"""Prepares the next batch on a thread while the model answers the current one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Ahead(Generic[Item, Result]):
    """Prepares batches; fetching one starts the preparation of the next.

    Args:
        prepare: turns a batch into what is wanted (images read from disk and decoded, say).
    """

    def __init__(self, prepare: Callable[[Sequence[Item]], Result]) -> None:
        self._prepare = prepare
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="shiftdc-ahead")
        self._waiting: tuple[Sequence[Item], Future[Result]] | None = None

    def get(self, batch: Sequence[Item], then: Sequence[Item]) -> Result:
        """The prepared batch; begins to prepare `then`. A batch that was not announced is prepared now."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and list(waiting[0]) == list(batch):
            result = waiting[1].result()
        else:
            result = self._worker.submit(self._prepare, batch).result()
        if then:
            self._waiting = then, self._worker.submit(self._prepare, then)
        return result
