"""The LLM judge: a rubric put to a model behind any OpenAI-compatible endpoint.

Every scored verdict goes to the cache at once, so a killed or stopped run asks only for what is missing.
A request that fails, and a reply that cannot be read, leave their one item unscored.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from PIL import Image

from shiftdc_eval.core.errors import JudgeError
from shiftdc_eval.core.hashing import image_sha256, text_sha256
from shiftdc_eval.judges.api.budget import Price, Spending, Usage
from shiftdc_eval.judges.api.client import Client
from shiftdc_eval.judges.api.endpoint import Endpoint
from shiftdc_eval.judges.api.grader import Asker, Structured, run_to_end
from shiftdc_eval.judges.api.reply import Fault
from shiftdc_eval.judges.cache import VerdictCache
from shiftdc_eval.judges.delimit import guard_version
from shiftdc_eval.judges.rubric import Rubric
from shiftdc_eval.judges.text import is_blank
from shiftdc_eval.judges.verdict import Item, Kind, Verdict, unscored


@dataclass(frozen=True)
class Call:
    """One judgement to make: the places in the result that wait for it, and its prompt."""

    key: str
    places: list[tuple[int, int]]
    """(item, run) pairs."""
    item: Item
    image: Image.Image | None


@dataclass
class LLMJudge:
    """Judges by rubric and model. Not for use by two threads at once."""

    name: str
    rubric: Rubric
    endpoint: Endpoint
    guarded: bool = False
    structured: Structured = "auto"
    """JSON schema output for guarded prompts: tried once (`auto`), demanded, or not asked for."""
    temperature: float | None = 0.0
    """None: not sent, for models that refuse it."""
    runs: int = 1
    """Independent judgements of one item; a score is their mean."""
    price: Price | None = None
    budget: float | None = None
    """USD that one call of `judge` may spend."""
    on_verdict: Callable[[int, str], None] | None = field(default=None, repr=False)
    """Called with the number of verdicts just given and the account so far in words."""
    spending: Spending = field(default_factory=Spending)
    """Account of the last call of `judge`."""

    @property
    def kind(self) -> Kind:
        """What its verdicts are about."""
        return self.rubric.kind

    @property
    def rubric_sha256(self) -> str:
        """Hash of the rubric, whatever the model and its settings."""
        return self.rubric.sha256

    @property
    def parser(self) -> str:
        """Name of the parser that reads the replies."""
        return (self.guarded and self.rubric.guarded_parser) or self.rubric.parser

    @property
    def fingerprint(self) -> str:
        """sha256 of rubric, guard, model, address and settings; not of limits and patience.

        The port counts: two servers of one machine may both call their model `default`.
        """
        what = {
            "rubric": self.rubric.fingerprint_data(),
            "guard": guard_version() if self.guarded else None,
            "model": self.endpoint.model,
            "address": self.endpoint.address,
            "structured": self.structured if self.guarded else None,
            "temperature": self.temperature,
            "runs": self.runs,
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order.

        Raises:
            JudgeError: the endpoint cannot be used at all, or the cache cannot.
        """
        self.spending = Spending(price=self.price, limit=self.budget)
        results: list[list[Verdict | None]] = [[None] * self.runs for _ in items]
        with VerdictCache() as cache:
            calls = self._plan(items, results, cache)
            if calls:
                run_to_end(self._work(calls, results, cache))
        verdicts = [self._combine(of_item) for of_item in results]
        self.spending.unscored = sum(not verdict.scored for verdict in verdicts)
        return verdicts

    def _plan(
        self, items: Sequence[Item], results: list[list[Verdict | None]], cache: VerdictCache
    ) -> list[Call]:
        """Fill in what needs no call, and collect the calls; equal prompts share one."""
        calls: dict[str, Call] = {}
        met: set[str] = set()
        fingerprint = self.fingerprint
        for place, item in enumerate(items):
            image, obstacle = self._prepare(item)
            if obstacle:
                results[place] = [unscored(self.kind, obstacle)] * self.runs
                self.spending.unscored += 1
                self._report(1)
                continue
            # The marker code is drawn anew for each call and is no part of the content.
            messages = self.rubric.messages(replace(item, image=None), self.guarded, nonce="0" * 16)
            picture = image_sha256(image) if image else ""
            for number in range(self.runs):
                content = json.dumps([fingerprint, messages, picture, number])
                key = text_sha256(content)
                if known := cache.get(key):
                    results[place][number] = self._priced(known, first=key not in met)
                    met.add(key)
                    self.spending.cached += 1
                    self._report(number == self.runs - 1)
                else:
                    calls.setdefault(key, Call(key, [], item, image)).places.append((place, number))
        return list(calls.values())

    def _prepare(self, item: Item) -> tuple[Image.Image | None, str]:
        """The image to show and what stands in the way of judging; empty when nothing does."""
        if item.response is None:
            return None, "no response: generation failed"
        if is_blank(item.response):
            return None, "empty response"
        if missing := self.rubric.missing(item):
            return None, f"the rubric needs the {missing} and this item has none"
        if "image" not in self.rubric.needs or item.image is None:
            return None, ""
        try:
            return item.image(), ""
        except Exception as error:  # whatever the loader raises concerns this item alone
            return None, f"the image cannot be loaded: {type(error).__name__}"

    async def _work(
        self, calls: list[Call], results: list[list[Verdict | None]], cache: VerdictCache
    ) -> None:
        queue = deque(calls)
        workers = min(self.endpoint.concurrency, len(calls))
        client = Client(self.endpoint, self.spending)
        asker = Asker(client, self.rubric, self.parser, self.guarded, self.structured, self.temperature)

        async def worker() -> None:
            while queue:
                call = queue.popleft()
                verdict = await self._isolated(asker, call, workers)
                self.spending.unscored += 0 if verdict.scored else len(call.places)
                cache.put(call.key, self.name, verdict)
                for place, number in call.places:
                    results[place][number] = self._priced(verdict, first=(place, number) == call.places[0])
                    self._report(number == self.runs - 1)

        hopeless: list[BaseException] = []
        try:
            async with client.connected(), asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(worker())
        except* JudgeError as errors:
            hopeless += errors.exceptions
        if hopeless:  # not raised above: Python 3.11.2 would wrap it in another group
            raise hopeless[0]

    async def _isolated(self, asker: Asker, call: Call, workers: int) -> Verdict:
        """A verdict whatever happens to this one item; only a JudgeError ends the run."""
        usage, begun = Usage(), time.monotonic()
        try:
            verdict = await asker.judge(call.item, call.image, usage)
        except Fault as fault:
            verdict = unscored(self.kind, fault.reason)
        except JudgeError:
            raise
        except Exception as error:  # recorded as this item's failure; its text may quote the request
            verdict = unscored(self.kind, f"judging failed: {type(error).__name__}")
        took = {
            # each worker has one item at a time, so that these shares add up to the wall time
            "seconds": round((time.monotonic() - begun) / workers, 6),
            "tokens_in": usage.tokens_in if usage.counted else None,
            "tokens_out": usage.tokens_out if usage.counted else None,
        }
        return verdict.model_copy(update=took)

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

    def _report(self, done: int) -> None:
        if self.on_verdict is not None:
            self.on_verdict(int(done), self.spending.line())


def _total(verdicts: Iterable[Verdict]) -> dict[str, float | None]:
    """What several verdicts took together; None when it is unknown of any."""
    parts: dict[str, list[float | None]] = {"seconds": [], "tokens_in": [], "tokens_out": [], "price": []}
    for verdict in verdicts:
        if verdict.asked:  # an obstacle that stands in every run's way took nothing
            for name, found in parts.items():
                found.append(getattr(verdict, name))
    return {
        name: None if None in found else sum(part for part in found if part is not None)
        for name, found in parts.items()
        if found
    }
