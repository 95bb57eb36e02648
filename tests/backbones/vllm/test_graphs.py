"""A prompt with one token left to compute looks like decoding to vLLM: its own choice of a CUDA graph, without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shiftdc_eval.backbones.vllm.plan import Plan
from shiftdc_eval.backbones.vllm.steps import ROLE
from shiftdc_eval.backbones.vllm.worker import Extension

pytest.importorskip("vllm", reason="needs vLLM's build for CPUs (`make vllm`)")
SIZES = [1, 2, 4, 8]
"""Batches that graphs were captured for."""


class Layer(nn.Module):
    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return hidden, torch.zeros_like(hidden)


def first_runner() -> tuple[SimpleNamespace, Callable[[int, bool], bool]]:
    """The dispatcher of vLLM's first runner, as after capturing; whether it replays a graph."""
    from vllm.config import CompilationConfig, CUDAGraphMode
    from vllm.v1.cudagraph_dispatcher import CudagraphDispatcher

    config = CompilationConfig(cudagraph_mode="FULL_DECODE_ONLY", cudagraph_capture_sizes=SIZES)
    config.max_cudagraph_capture_size = max(SIZES)
    config.post_init_cudagraph_sizes()
    dispatcher = CudagraphDispatcher(
        SimpleNamespace(
            compilation_config=config,
            scheduler_config=SimpleNamespace(max_num_seqs=max(SIZES)),
            speculative_config=None,
            lora_config=None,
            num_speculative_tokens=0,
        )
    )
    dispatcher.initialize_cudagraph_keys(CUDAGraphMode.FULL_DECODE_ONLY, 1)

    def replays(tokens: int, uniform: bool) -> bool:
        mode, _ = dispatcher.dispatch(tokens, uniform_decode=uniform)
        return bool(mode == CUDAGraphMode.FULL)

    return SimpleNamespace(cudagraph_dispatcher=dispatcher), replays


def second_runner() -> tuple[SimpleNamespace, Callable[[int, bool], bool]]:
    """The same of vLLM's second runner."""
    from vllm.config import CUDAGraphMode
    from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, CudaGraphManager

    manager = CudaGraphManager.__new__(CudaGraphManager)
    manager._graphs_captured = True
    manager._resolve_effective_loras = lambda _: 0  # type: ignore[method-assign]
    manager._candidates = {
        (tokens, 0): [
            BatchExecutionDescriptor(
                cg_mode=CUDAGraphMode.FULL, num_tokens=tokens, num_reqs=tokens, uniform_token_count=1
            )
        ]
        for tokens in range(1, max(SIZES) + 1)
    }

    def replays(tokens: int, uniform: bool) -> bool:
        return bool(manager.dispatch(tokens, tokens, 1 if uniform else None, 0).cg_mode == CUDAGraphMode.FULL)

    return SimpleNamespace(cudagraph_manager=manager), replays


class Worker(Extension):
    """Runs its one layer in Python, or not at all where vLLM would replay a graph."""

    def __init__(self, runner: SimpleNamespace, replays: Callable[[int, bool], bool]) -> None:
        self.layer = Layer()
        self.model_runner = runner
        runner.model = nn.Module()
        runner.model.model = nn.Module()
        runner.model.model.layers = nn.ModuleList([self.layer])
        runner.model.register_parameter("weight", nn.Parameter(torch.zeros(1)))
        runner.input_batch = SimpleNamespace(req_ids=[], num_reqs=0)
        self.replays = replays
        self.replayed: list[bool] = []

    def execute_model(self, scheduled: Any) -> None:
        counts = scheduled.num_scheduled_tokens
        self.model_runner.input_batch = SimpleNamespace(req_ids=list(counts), num_reqs=len(counts))
        total = sum(counts.values())
        self.replayed.append(self.replays(total, set(counts.values()) == {1}))
        if not self.replayed[-1]:
            self.layer(torch.arange(total, dtype=torch.float32)[:, None].expand(total, 3).clone())


def step(counts: dict[str, int], new: dict[str, tuple[int, int]], cached: dict[str, int]) -> SimpleNamespace:
    """A scheduler's output: new requests with (prompt, stored) tokens."""
    return SimpleNamespace(
        finished_req_ids=[],
        scheduled_new_reqs=[
            SimpleNamespace(
                req_id=name,
                prompt_token_ids=[0] * prompt,
                num_computed_tokens=stored,
                sampling_params=SimpleNamespace(
                    extra_args={ROLE: {"key": name, "plan": "p", "read": True}} if name[0] == "r" else None
                ),
            )
            for name, (prompt, stored) in new.items()
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(cached), num_computed_tokens=list(cached.values()), resumed_req_ids=set()
        ),
        num_scheduled_tokens=counts,
    )


@pytest.mark.parametrize("runner", [first_runner, second_runner])
def test_one_token_left_of_a_prompt_is_read_and_decoding_is_a_graph_again(runner: Any) -> None:
    worker = Worker(*runner())
    assert worker.shiftdc_install() == [0]
    worker.shiftdc_plan("p", Plan("none", (0,)).packed())
    worker.execute_model(step({"r1": 17}, {"r1": (17, 0)}, {}))
    worker.execute_model(step({"r1": 1}, {}, {"r1": 17}))  # decoding
    worker.execute_model(step({"r1": 1, "r2": 1}, {"r2": (17, 16)}, {"r1": 18}))  # beside a stored prefix
    worker.execute_model(step({"r1": 1, "x": 1}, {"x": (17, 16)}, {"r1": 19}))  # nothing is asked of x
    assert worker.replayed == [False, True, False, True]
    kept = worker._shiftdc.kept
    assert kept["r1"][0].tolist() == [16.0] * 3
    assert kept["r2"][0].tolist() == [1.0] * 3
