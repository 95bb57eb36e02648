"""A judge server on loopback, and judges that talk to it without patience."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from judge_server import JudgeServer

from shiftdc_eval.judges import Judge, get_judge


@pytest.fixture(autouse=True)
def no_judge_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "SHIFTDC_JUDGE_API_KEY",
        "SHIFTDC_JUDGE_BASE_URL",
        "SHIFTDC_JUDGE_MODEL",
        "SHIFTDC_PRICES",
        "OPENAI_BASE_URL",
        "OPENAI_ORG_ID",
        "OPENAI_PROJECT_ID",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as running:
        yield running


@pytest.fixture
def judge_at(server: JudgeServer) -> Callable[..., Judge]:
    """`judge_at("llm_figstep", tries=1)`: that judge, asking the server of this test."""

    def build(name: str, **settings: object) -> Judge:
        quick: dict[str, object] = {"timeout": 5, "tries": 3, "backoff": 0.01, "patience": 2}
        quick |= {"model": "judge-1", "base_url": server.url, **settings}
        return get_judge(f"{name}:" + ";".join(f"{key}={value}" for key, value in quick.items()))

    return build
