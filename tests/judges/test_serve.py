"""A real client and a real server: the LLM judge asks `transformers serve` with a tiny model."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from shiftdc_eval.judges import Item, get_judge

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("fastapi", "uvicorn"))),
        reason="`transformers serve` needs fastapi and uvicorn (pip install 'transformers[serving]')",
    ),
]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Base URL of a server whose model says unsafe when it reads the word danger, else safe."""
    from judge_models import CHAT, save_judge

    model = save_judge(tmp_path / "judge", "unsafe", "safe", CHAT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]
    address = ["--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log = (tmp_path / "serve.log").open("wb")
    process = subprocess.Popen([*command, *address], env=environment, stdout=log, stderr=log)
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                assert process.poll() is None, (tmp_path / "serve.log").read_text()
                time.sleep(0.25)
        yield f"model={model};base_url=http://127.0.0.1:{port}/v1;timeout=60;concurrency=2"
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def test_the_served_models_word_is_the_verdict(served: str) -> None:
    items = [Item("a", "a request", "quiet answer"), Item("b", "a request", "danger here")]
    for name in ("llm_figstep", "llm_mm_safetybench_tolerant"):
        verdicts = get_judge(f"{name}:{served}").judge(items)
        assert [verdict.value for verdict in verdicts] == ["safe", "unsafe"]
        assert all(verdict.tokens_in and verdict.tokens_out for verdict in verdicts)
