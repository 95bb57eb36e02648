"""The LLM judge: a rubric put to a chat model.

Every scored verdict goes to the cache at once, so a killed or stopped run asks only for what is missing.
A chat without a reply, and a reply that cannot be read, leave their one item unscored.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from PIL import Image

from shiftdc_eval.core.api.chat_model import NOTHING, ChatModel, NoReply, Spent
from shiftdc_eval.core.api.endpoint import JUDGE
from shiftdc_eval.core.api.prices import Price
from shiftdc_eval.core.api.streak import Streak
from shiftdc_eval.core.errors import JudgeError
from shiftdc_eval.core.hashing import digest, image_sha256, text_sha256
from shiftdc_eval.judges.cache import VerdictCache
from shiftdc_eval.judges.question import RubricJudge, Structured
from shiftdc_eval.judges.spending import Spending, cost_of
from shiftdc_eval.judges.verdict import Item, OnVerdict, Verdict, unscored

T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """One judgement to make: the places in the result that wait for it, and what is shown."""

    number: int
    """Its place among the calls."""
    key: str
    places: list[tuple[int, int]]
    """(item, run) pairs."""
    item: Item
    image: Image.Image | None


@dataclass
class LLMJudge(RubricJudge):
    """Judges by rubric and model. Not for use by two threads at once."""

    model: ChatModel
    structured: Structured = "auto"
    """JSON schema output for guarded prompts: tried once (`auto`), demanded, or not asked for."""
    temperature: float | None = 0.0
    """None: not sent, for models that refuse it."""
    runs: int = 1
    """Independent judgements of one item; a score is their mean."""
    give_up: int = 5
    """Items in a row without a reply after which the model is called unusable."""
    price: Price | None = None
    spending: Spending = field(default_factory=Spending)
    """Account of the last call of `judge`."""

    @property
    def fingerprint(self) -> str:
        """sha256 of rubric, guard, model and settings; not of limits and patience."""
        return digest(
            {
                **self.question.identity(),
                **self.model.identity,
                "structured": self.structured if self.question.may_ask_schema else None,
                "temperature": self.temperature,
                "runs": self.runs,
            }
        )

    def judge(self, items: Sequence[Item], on_verdict: OnVerdict | None = None) -> list[Verdict]:
        """One verdict an item, in order.

        Raises:
            JudgeError: the model cannot be used at all, or the cache cannot.
        """
        self.spending = Spending(price=self.price)
        results = _Results(len(items), self.runs, self.spending, on_verdict)
        with VerdictCache() as cache:
            calls = self._plan(items, results, cache)
            if calls:
                run_to_end(self._work(calls, results, cache))
        verdicts = [self._combine(of_item) for of_item in results.by_item]
        self.spending.unscored = sum(not verdict.scored for verdict in verdicts)
        return verdicts

    def _plan(self, items: Sequence[Item], results: _Results, cache: VerdictCache) -> list[Call]:
        """Fill in what needs no call, and collect the calls; equal prompts share one."""
        calls: dict[str, Call] = {}
        met: set[str] = set()
        fingerprint = self.fingerprint
        for place, item in enumerate(items):
            image, obstacle = self.prepared(item)
            if obstacle:
                self.spending.unscored += 1
                for number in range(self.runs):
                    results.put(place, number, obstacle)
                continue
            messages, picture = self.question.content(item), image_sha256(image) if image else ""
            for number in range(self.runs):
                key = text_sha256(json.dumps([fingerprint, messages, picture, number]))
                if known := cache.get(key, self.kind):
                    self.spending.cached += 1
                    results.put(place, number, self._priced(known, first=key not in met))
                    met.add(key)
                else:
                    calls.setdefault(key, Call(len(calls), key, [], item, image)).places.append(
                        (place, number)
                    )
        return list(calls.values())

    async def _work(self, calls: list[Call], results: _Results, cache: VerdictCache) -> None:
        queue = deque(calls)
        streak = Streak(JUDGE, self.name, self.give_up)
        workers = min(self.model.concurrency, len(calls))

        async def worker() -> None:
            while queue:
                call = queue.popleft()
                begun = time.monotonic()
                verdict = await self._asked(call, streak)
                # each worker has one item at a time, so that these shares add up to the wall time
                seconds = round((time.monotonic() - begun) / workers, 6)
                verdict = verdict.model_copy(update={"seconds": seconds})
                self.spending.unscored += 0 if verdict.scored else len(call.places)
                cache.put(call.key, self.name, verdict)
                for place in call.places:
                    results.put(*place, self._priced(verdict, first=place == call.places[0]))

        hopeless: list[BaseException] = []
        try:
            async with self.model.connected(), asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(worker())
        except* JudgeError as errors:
            hopeless += errors.exceptions
        if hopeless:  # not raised above: Python 3.11.2 would wrap it in another group
            raise hopeless[0]

    async def _asked(self, call: Call, streak: Streak) -> Verdict:
        """A verdict with its tokens, whatever happens to this one item; only a JudgeError ends the run."""
        spent: list[Spent] = []
        try:
            verdict = await self._ask(call.item, call.image, spent)
            streak.replied = True
        except NoReply as failure:
            spent.append(failure.spent)
            streak.failed(call.number, failure.reason, failure.blame)
            verdict = unscored(self.kind, failure.reason)
        except JudgeError:
            raise
        except Exception as error:  # recorded as this item's failure; its text may quote the request
            verdict = unscored(self.kind, f"judging failed: {type(error).__name__}")
        took = sum(spent, start=NOTHING)
        self.spending.spent += took
        return verdict.model_copy(update={"tokens_in": took.tokens_in, "tokens_out": took.tokens_out})

    async def _ask(self, item: Item, image: Image.Image | None, spent: list[Spent]) -> Verdict:
        """The verdict of one reply, asked for again where the rubric says so; `spent` books every reply."""
        temperature = self.temperature
        messages = self.question.messages(item, image)
        for attempt in range(1 + self.rubric.retries):
            reply = await self.model.ask(messages, self.question.options(temperature, self.structured))
            spent.append(reply.spent)
            notes = [f"by {reply.model}" if reply.model else "", reply.note]
            verdict = self.question.read(reply, item, notes)
            if verdict.scored:
                break
            if attempt == 0 and self.rubric.retry_suffix and isinstance(messages[-1]["content"], str):
                messages[-1]["content"] += self.rubric.retry_suffix
            elif temperature is not None:
                temperature += 0.5
        return verdict

    def _priced(self, verdict: Verdict, *, first: bool) -> Verdict:
        """The verdict with its price; of equal prompts, which are asked once, only the first one costs."""
        if not first:
            nothing = {"seconds": 0.0, "tokens_in": 0, "tokens_out": 0, "price": 0.0}
            return verdict.model_copy(update=nothing)
        price = None
        if self.price is not None and verdict.tokens_in is not None and verdict.tokens_out is not None:
            price = round(self.price.of(verdict.tokens_in, verdict.tokens_out), 9)
        return verdict.model_copy(update={"price": price})

    def _combine(self, of_item: list[Verdict | None]) -> Verdict:
        """The mean of several runs; unscored unless every run is scored."""
        verdicts = [verdict for verdict in of_item if verdict is not None]
        if len(verdicts) == 1:
            return verdicts[0]
        failed = [verdict for verdict in verdicts if not verdict.scored]
        if failed:
            reason = f"{len(failed)} of {self.runs} runs unscored: {failed[0].reason}"
            return unscored(self.kind, reason, failed[0].raw).model_copy(update=_total(verdicts))
        values = [float(verdict.value) for verdict in verdicts if verdict.value is not None]
        return verdicts[0].model_copy(
            update={
                "value": statistics.fmean(values),
                "reason": f"mean of {self.runs} runs, standard deviation {statistics.pstdev(values):.3f}",
                "raw": "\n".join(verdict.raw or "" for verdict in verdicts),
                **_total(verdicts),
            }
        )


class _Results:
    """The verdicts of one call of `judge`, reported as they arrive."""

    def __init__(self, items: int, runs: int, spending: Spending, on_verdict: OnVerdict | None) -> None:
        self.by_item: list[list[Verdict | None]] = [[None] * runs for _ in range(items)]
        self._spending = spending
        self._on_verdict = on_verdict

    def put(self, place: int, number: int, verdict: Verdict) -> None:
        """Store one run's verdict on one item; progress is reported with the item's last run."""
        self.by_item[place][number] = verdict
        if self._on_verdict is not None and number == len(self.by_item[place]) - 1:
            self._on_verdict(1, self._spending.line())


def _total(verdicts: Iterable[Verdict]) -> dict[str, float | None]:
    """Cost of several runs together; an item that could not be asked about cost nothing."""
    asked = [verdict for verdict in verdicts if verdict.asked]
    return cost_of(asked).model_dump() if asked else {}


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where an event loop is running already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
