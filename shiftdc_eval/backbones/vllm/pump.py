"""The thread that talks to vLLM: it hands requests over as they come and gives answers back as they finish."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

HAND_OVER = 0.25
"""Seconds of preprocessing after which finished answers are looked at."""
FIRST, LATER = 0, 1
"""Functions go before prompts: whoever calls one has nothing under way."""
Entry = tuple[int, int, Future[Any] | None, Callable[[], None]]
"""Which first, a running number, for whom, and what is to be done."""


class Pump:
    """Lets several threads use one `vllm.LLM`, which is made for a single one.

    A prompt is preprocessed while earlier ones are being answered, and a caller's last answers run beside another's
    first ones.

    Args:
        llm: a running `vllm.LLM`; nobody else may use it while the pump runs.
    """

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._inbox: queue.PriorityQueue[Entry] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._waiting: dict[str, tuple[Future[Any], float]] = {}
        """Request id -> where its answer is awaited, and the meter when it was handed over."""
        self._meter, self._read = 0.0, time.monotonic()
        """Seconds divided by the number of requests under way, summed up to the last reading."""
        self._ended = threading.Event()
        self._why: Exception = RuntimeError("vLLM was ended")
        self._thread = threading.Thread(target=self._run, name="shiftdc-vllm", daemon=True)
        self._thread.start()

    def answer(self, prompts: Sequence[Any], params: Sequence[Any]) -> list[tuple[Any, float]]:
        """vLLM's outputs, in order, each with its share of vLLM's time in seconds.

        Raises:
            Exception: what vLLM raises for one of the prompts, or because it has ended.
        """
        futures: list[Future[Any]] = []
        for prompt, settings in zip(prompts, params, strict=True):
            futures.append(Future())
            self._put(LATER, futures[-1], partial(self._hand_over, futures[-1], prompt, settings))
        return [future.result() for future in futures]

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function gives that is called between two steps of vLLM."""
        future: Future[Any] = Future()
        self._put(FIRST, future, lambda: future.set_result(function(*args, **kwargs)))
        return future.result()

    def stop(self) -> None:
        """End the thread; requests that are running are given up."""
        self._put(FIRST, None, lambda: None)
        self._thread.join(timeout=10)

    def _put(self, when: int, future: Future[Any] | None, task: Callable[[], None]) -> None:
        self._inbox.put((when, next(self._numbers), future, task))
        if self._ended.is_set():
            self._give_up()

    def _hand_over(self, future: Future[Any], prompt: Any, settings: Any) -> None:
        begun = self._metered()
        (name,) = self._llm.enqueue([prompt], [settings], use_tqdm=False)
        self._waiting[_outer(name)] = future, begun

    def _metered(self) -> float:
        """The meter: a request's share of the time is what is added to it while the request is under way."""
        now = time.monotonic()
        self._meter += (now - self._read) / max(1, len(self._waiting))
        self._read = now
        return self._meter

    def _run(self) -> None:
        try:
            while True:
                until = time.monotonic() + HAND_OVER
                while not self._waiting or (time.monotonic() < until and not self._inbox.empty()):
                    _, _, future, task = self._inbox.get()
                    if future is None:
                        return
                    try:
                        task()
                    except Exception as error:  # that caller's; the others go on
                        future.set_exception(error)
                for output in self._llm.llm_engine.step():
                    if output.finished:
                        meter = self._metered()
                        future, begun = self._waiting.pop(_outer(output.request_id))
                        future.set_result((output, meter - begun))
        except Exception as error:  # vLLM has ended
            self._why = error
        finally:
            self._ended.set()
            self._give_up()

    def _give_up(self) -> None:
        """Nobody may wait for a thread that has ended."""
        while self._waiting:
            self._waiting.popitem()[1][0].set_exception(self._why)
        while not self._inbox.empty():
            if (future := self._inbox.get()[2]) is not None:
                future.set_exception(self._why)


def _outer(name: str) -> str:
    """The id that a caller knows: inside, vLLM puts eight hexadecimal digits behind it."""
    return name.partition("-")[0]
