"""An event loop on a thread of its own, so that code without one has several requests in flight."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, TypeVar

T = TypeVar("T")
CLOSING = 5.0
"""Seconds that closing connections may take."""


class Background:
    """Runs coroutines for any thread, inside a context that is open from the first one on.

    Args:
        context: opened within the loop (connections).
    """

    def __init__(self, context: AbstractAsyncContextManager[object]) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="shiftdc-server", daemon=True).start()
        try:
            asyncio.run_coroutine_threadsafe(context.__aenter__(), self._loop).result()
        except BaseException:
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise
        self._finalizer = weakref.finalize(self, _close, self._loop, context)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine; stopped with the thread that waits for it."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def cancel(self) -> None:
        """Stop everything that runs; who waits for it gets a `CancelledError`."""

        async def stop() -> None:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result()


def _close(loop: asyncio.AbstractEventLoop, context: AbstractAsyncContextManager[object]) -> None:
    with suppress(Exception):  # whatever a connection says that nobody needs any more
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(CLOSING)
    loop.call_soon_threadsafe(loop.stop)
