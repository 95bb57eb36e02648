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
BURST = 32
"""Prompts that are preprocessed and then handed over at once. One by one they would be read in as many steps, and a
step that reads a prompt is no CUDA graph: the answers that are being decoded beside it wait for Python."""
FIRST, LATER = 0, 1
"""Functions go before prompts: whoever calls one has nothing under way."""
Entry = tuple[int, int, list[Future[Any]] | None, Callable[[], None]]
"""Which first, a running number, who waits (None: the thread is to end), and what is to be done."""
Asked = tuple[Future[Any], Any, Any]
"""Where an answer is awaited, prompt, settings."""


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
        asked = [(Future[Any](), *each) for each in zip(prompts, params, strict=True)]
        for start in range(0, len(asked), BURST):
            some = asked[start : start + BURST]
            self._put(LATER, [future for future, _, _ in some], partial(self._hand_over, some))
        return [future.result() for future, _, _ in asked]

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What a function gives that is called between two steps of vLLM."""
        future: Future[Any] = Future()
        self._put(FIRST, [future], lambda: future.set_result(function(*args, **kwargs)))
        return future.result()

    def stop(self) -> None:
        """End the thread; requests that are running are given up."""
        self._put(FIRST, None, lambda: None)
        self._thread.join(timeout=10)

    def _put(self, when: int, futures: list[Future[Any]] | None, task: Callable[[], None]) -> None:
        self._inbox.put((when, next(self._numbers), futures, task))
        if self._ended.is_set():
            self._give_up()

    def _hand_over(self, asked: Sequence[Asked]) -> None:
        ready = []
        for future, prompt, settings in asked:
            begun = self._metered()
            try:
                ready.append((future, begun, self._llm._preprocess_cmpl_one(prompt), settings))
            except Exception as error:  # that prompt's; the others go on
                future.set_exception(error)
        for future, begun, prompt, settings in ready:
            try:
                (name,) = self._llm._render_and_add_requests(prompts=iter([prompt]), params=[settings])
            except Exception as error:
                future.set_exception(error)
            else:
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
                    _, _, futures, task = self._inbox.get()
                    if futures is None:
                        return
                    try:
                        task()
                    except Exception as error:  # that caller's; the others go on
                        _fail(futures, error)
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
            _fail(self._inbox.get()[2] or (), self._why)


def _fail(futures: Sequence[Future[Any]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)


def _outer(name: str) -> str:
    """The id that a caller knows: inside, vLLM puts eight hexadecimal digits behind it."""
    return name.partition("-")[0]
