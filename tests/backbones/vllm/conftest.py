"""vLLM in the test's own process, on the CPU; skips where vLLM is not installed (`make vllm` installs it)."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from shiftdc_eval.backbones.vllm.engine import installed

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


@cache
def _once(platform: Any) -> Any:
    """Registers vLLM's kernels for CPUs at the first call."""
    return cache(platform.register_triton_kernel_overrides)


@pytest.fixture(scope="module")
def vllm() -> Iterator[str]:
    """The installed vLLM for CPUs."""
    found = installed()
    if found is None:
        pytest.skip("vLLM is not installed here; `make vllm` installs its build for CPUs")
    if not found.startswith("vllm-cpu"):
        pytest.skip(f"these tests run on a CPU, and the installed {found} does not")
    from vllm import LLM  # noqa: F401
    from vllm.model_executor.models import registry
    from vllm.platforms.cpu import CpuPlatform

    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        # vLLM collects garbage nine times an engine, and would walk all that was imported
        patch.setattr(gc, "freeze", lambda: None)
        patch.setattr(gc, "unfreeze", lambda: None)
        patch.setattr(gc, "collect", lambda *_: 0)
        # every engine of a process would wrap the same kernels once more, a second each
        patch.setattr(CpuPlatform, "register_triton_kernel_overrides", staticmethod(_once(CpuPlatform)))
        # vLLM imports each model class in a process of its own, where its cache does not know it yet
        patch.setattr(registry, "_run_in_subprocess", lambda function: function())
        yield found
