"""The thread between callers and vLLM, with a stand-in for vLLM: no vLLM is needed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from shiftdc_eval.backbones.vllm.pump import Pump


@dataclass
class Output:
    request_id: str
    finished: bool
    said: str


class StandIn:
    """A `vllm.LLM` that takes `tokens` steps for a request, and objects to use by two threads at a time."""

    def __init__(self, inner_ids: bool = True, step: float = 0.002) -> None:
        self.llm_engine = self
        self.inner_ids, self.seconds = inner_ids, step
        self.running: dict[str, tuple[str, int]] = {}
        self.count = 0
        self.most = 0
        self.dead = False
        self.used_by: set[int] = set()
        self.done: list[str] = []

    def _preprocess_cmpl_one(self, prompt: Any) -> Any:
        self.used_by.add(threading.get_ident())
        if prompt == "too long":
            raise ValueError("the prompt is too long")
        self.done.append("preprocess")
        return prompt

    def _render_and_add_requests(self, prompts: Any, params: list[Any]) -> list[str]:
        self.used_by.add(threading.get_ident())
        name = str(self.count)
        self.count += 1
        self.running[name] = next(prompts), params[0]
        self.most = max(self.most, len(self.running))
        self.done.append("add")
        return [f"{name}-1a2b3c4d" if self.inner_ids else name]

    def step(self) -> list[Output]:
        self.used_by.add(threading.get_ident())
        time.sleep(self.seconds)
        if self.dead:
            raise RuntimeError("EngineCore died")
        found = []
        for name, (prompt, left) in list(self.running.items()):
            self.running[name] = prompt, left - 1
            found.append(Output(name, left <= 1, prompt.upper()))
            if left <= 1:
                del self.running[name]
        return found


@pytest.mark.parametrize("inner_ids", [True, False])
def test_answers_come_to_the_caller_that_asked_in_the_order_asked(inner_ids: bool) -> None:
    llm = StandIn(inner_ids)
    pump = Pump(llm)

    def ask(caller: int) -> bool:
        prompts = [f"prompt {caller} {at}" for at in range(20)]
        found = pump.answer(prompts, [1 + (caller + at) % 7 for at in range(20)])
        return [output.said for output, _ in found] == [prompt.upper() for prompt in prompts]

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(ask, range(12)))
    assert llm.most > 20, "callers waited for one another"
    pump.stop()
    assert len(llm.used_by) == 1, "vLLM was used by several threads"


def test_prompts_of_a_call_are_handed_over_at_once() -> None:
    llm = StandIn()
    pump = Pump(llm)
    pump.answer(["p"] * 10, [3] * 10)
    pump.stop()
    assert llm.done == ["preprocess"] * 10 + ["add"] * 10


def test_a_prompt_that_is_refused_is_its_callers_alone() -> None:
    pump = Pump(StandIn())
    with ThreadPoolExecutor(2) as pool:
        bad = pool.submit(pump.answer, ["fine", "too long"], [50, 1])
        good = pool.submit(pump.answer, ["other"] * 3, [30] * 3)
        with pytest.raises(ValueError, match="too long"):
            bad.result(timeout=5)
        assert [output.said for output, _ in good.result(timeout=5)] == ["OTHER"] * 3
    pump.stop()


def test_functions_are_called_between_steps_and_their_errors_are_the_callers() -> None:
    llm = StandIn()
    pump = Pump(llm)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(pump.answer, ["long"], [20])
        assert pump.call(threading.get_ident) != threading.get_ident()
        with pytest.raises(ZeroDivisionError):
            pump.call(lambda: 1 / 0)
        running.result(timeout=5)
    pump.stop()


def test_nobody_waits_for_a_vllm_that_has_died() -> None:
    llm = StandIn()
    pump = Pump(llm)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(pump.answer, ["never"], [10**9]) for _ in range(2)]
        time.sleep(0.05)
        llm.dead = True
        for one in waiting:
            with pytest.raises(RuntimeError, match="EngineCore died"):
                one.result(timeout=5)
    with pytest.raises(RuntimeError, match="EngineCore died"):
        pump.answer(["later"], [1])
    with pytest.raises(RuntimeError, match="EngineCore died"):
        pump.call(len, "x")
    pump.stop()


def test_a_pump_that_was_stopped_gives_up_what_runs() -> None:
    pump = Pump(StandIn())
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(pump.answer, ["never"], [10**9])
        time.sleep(0.02)
        pump.stop()
        with pytest.raises(RuntimeError, match="was ended"):
            waiting.result(timeout=5)


def test_shares_of_time_add_up_to_the_time_that_passed() -> None:
    pump, together = Pump(StandIn(step=0.005)), threading.Barrier(2)

    def ask(count: int) -> float:
        together.wait()
        return sum(seconds for _, seconds in pump.answer(["p"] * count, [100] * count))

    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        few, many = pool.map(ask, [1, 20])
    passed = time.monotonic() - begun
    assert 0.6 * passed < few + many <= passed
    assert many > 3 * few
    pump.stop()
