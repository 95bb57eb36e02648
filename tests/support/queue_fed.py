"""A chat model whose replies stand in a queue: no server, no weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext

from shiftdc_eval.core.api.chat_model import Message, Options, Reply, Spent
from shiftdc_eval.judges.llm import LLMJudge
from shiftdc_eval.judges.question import Question
from shiftdc_eval.judges.rubric import load_rubric


class QueueFed:
    """Gives the answers in turn and keeps what it was asked; an exception among them is raised.

    It knows 100 prompt tokens and 7 reply tokens a reply. An empty queue is a failure of the test.
    """

    concurrency = 1

    def __init__(self, *answers: str | Reply | Exception, model: str = "queue") -> None:
        self.answers = deque(answers)
        self.asked: list[tuple[list[Message], Options]] = []
        self.identity: Mapping[str, object] = {"model": model}

    def connected(self) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    async def ask(self, messages: list[Message], options: Options) -> Reply:
        # a copy: a judge may add to a chat before it asks again
        self.asked.append(([dict(message) for message in messages], options))
        assert self.answers, f"asked {len(self.asked)} times, and no answer is left"
        answer = self.answers.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Reply) else Reply(answer, "queue-1", Spent(1, 100, 7))

    def texts(self) -> list[str]:
        """The last message of every chat."""
        return [str(messages[-1]["content"]) for messages, _ in self.asked]


def judge_fed(
    rubric: str, *answers: str | Reply | Exception, guarded: bool = False, runs: int = 1
) -> LLMJudge:
    """A judge of this rubric that is answered from a queue."""
    loaded = load_rubric(rubric)
    question = Question(loaded, guarded or loaded.guard)
    return LLMJudge(f"llm_{loaded.name}", question, QueueFed(*answers), runs=runs)


def fed(judge: LLMJudge) -> QueueFed:
    """The queue behind a judge."""
    assert isinstance(judge.model, QueueFed)
    return judge.model
