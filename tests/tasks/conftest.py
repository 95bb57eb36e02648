"""A model that answers at once, and one evaluator call in this process."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.protocol import ChatMessages
from lmms_eval.tasks import TaskManager

from shiftdc_eval.judges.verdict import Item, Verdict, unscored
from shiftdc_eval.plugin.manifests import TASKS_FOLDER

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def any_font() -> Path:
    """A font that is certainly there: matplotlib ships one."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono-Bold.ttf"


class DummyModel(lmms):
    """Answers with a function of the text prompt and keeps what it was shown."""

    is_simple = False

    def __init__(self, answer: Callable[[str, int], str | None]) -> None:
        super().__init__()
        self.answer = answer
        self.seen: list[tuple[str, list[Any]]] = []

    def generate_until(self, requests: list[Any]) -> list[Any]:
        answers = []
        for request in requests:
            _, to_messages, _, doc_id, task, split = request.args
            messages = ChatMessages(messages=to_messages(self.task_dict[task][split][doc_id]))
            images, _, _ = messages.extract_media()
            text = messages.messages[0].content[-1].text
            self.seen.append((text, images))
            answers.append(GenerationResult(text=self.answer(text, len(self.seen) - 1)))  # type: ignore[arg-type]
        return answers

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise NotImplementedError

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotImplementedError


@pytest.fixture(scope="session")
def manager() -> TaskManager:
    """A task manager that knows our tasks alone."""
    return TaskManager(include_path=TASKS_FOLDER, include_defaults=False)


@pytest.fixture
def evaluate(manager: TaskManager) -> Callable[..., tuple[dict[str, Any], DummyModel]]:
    """Run tasks of ours through lmms-eval's evaluator with a dummy model."""

    def run(
        tasks: str | list[str], answer: Callable[[str, int], str | None], **settings: Any
    ) -> tuple[dict[str, Any], DummyModel]:
        model = DummyModel(answer)
        results = simple_evaluate(
            model=model,
            tasks=[tasks] if isinstance(tasks, str) else tasks,
            task_manager=manager,
            bootstrap_iters=0,
            **settings,
        )
        return results, model

    return run


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real data, as `SHIFTDC_DATA`; the test skips where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("the real benchmark data (../shared/data) is not on this machine")
    monkeypatch.setenv("SHIFTDC_DATA", str(SHARED))
    return SHARED


@pytest.fixture(scope="session")
def mini_benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mini versions of all benchmarks, to copy from."""
    from mini_benchmarks import write_all

    folder = tmp_path_factory.mktemp("mini")
    write_all(folder)
    return folder


@pytest.fixture
def mini_data(
    mini_benchmarks: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Mini versions of all benchmarks, as `SHIFTDC_DATA`; each test has its own copy to break.

    They count as the whole benchmark here: what an incomplete one gives is in test_incomplete.py.
    """
    from shiftdc_eval.tasks.base import BenchmarkTask

    monkeypatch.setattr(BenchmarkTask, "missing", lambda task, parts=None: 0)

    folder = shutil.copytree(mini_benchmarks, tmp_path_factory.mktemp("data"), dirs_exist_ok=True)
    monkeypatch.setenv("SHIFTDC_DATA", str(folder))
    return folder


class FakeJudge:
    """Refused where the response begins with `no`; unscored where it is empty or missing."""

    kind = "refusal"

    def __init__(self, name: str = "fake", fail: Exception | None = None, drop: int = 0) -> None:
        self.name = name
        self.fail = fail
        self.drop = drop
        self.asked: list[list[Item]] = []

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        self.asked.append(list(items))
        if self.fail is not None:
            raise self.fail
        verdicts = [
            Verdict(kind="refusal", value="refused" if item.response.startswith("no") else "complied")
            if item.response
            else unscored("refusal", "nothing to judge")
            for item in items
        ]
        return verdicts[self.drop :]


@pytest.fixture
def judged_by(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make these the judges of every safety task."""

    def use(*judges: FakeJudge) -> None:
        monkeypatch.setattr("shiftdc_eval.tasks.safety.judges_for", lambda default: list(judges))

    return use
