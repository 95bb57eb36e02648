"""The number of requests in flight to one server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Limiter:
    """The number of requests in flight: halved by a 429, raised again by successes (additive increase,
    multiplicative decrease), with a pause shared by all requests.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.limit = float(maximum)
        self.running = 0
        self.resume_at = 0.0
        self._halved_at = 0.0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a free slot and the end of a pause, then hold the slot."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self.running < max(1, int(self.limit)))
                pause = self.resume_at - time.monotonic()
                if pause <= 0:
                    self.running += 1
                    break
            await asyncio.sleep(pause)
        try:
            yield
        finally:
            async with self._changed:
                self.running -= 1
                self._changed.notify()

    def succeeded(self) -> None:
        """One more request in about `limit` successes."""
        self.limit = min(float(self.maximum), self.limit + 1 / self.limit)

    def refused(self, wait: float, sent_at: float) -> None:
        """A 429: halve once for all requests sent before the last halving, and pause for `wait` seconds."""
        now = time.monotonic()
        if sent_at >= self._halved_at:
            self.limit = max(1.0, self.limit / 2)
            self._halved_at = now
        self.resume_at = max(self.resume_at, now + wait)
