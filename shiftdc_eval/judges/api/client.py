"""A chat model behind an OpenAI-compatible endpoint: which requests are repeated, when, and what ends the run."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shiftdc_eval.core.errors import JudgeError
from shiftdc_eval.judges.api.budget import Budget
from shiftdc_eval.judges.api.endpoint import Endpoint, api_key, redact
from shiftdc_eval.judges.api.reply import Fault, read_completion, status_fault
from shiftdc_eval.judges.chat_model import NOTHING, Message, Options, Reply
from shiftdc_eval.judges.spending import Price

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class ApiModel:
    """The model of one endpoint, as a `ChatModel`.

    Args:
        budget: USD that may be spent within one `connected`; None: no limit. Needs a price.
    """

    def __init__(self, endpoint: Endpoint, price: Price | None = None, budget: float | None = None) -> None:
        self.endpoint = endpoint
        self._price = price
        self._limit = budget

    @property
    def identity(self) -> Mapping[str, object]:
        """Model and address. The port counts: two servers of one machine may both call their model `default`."""
        return {"model": self.endpoint.model, "address": self.endpoint.address}

    @property
    def concurrency(self) -> int:
        """Most requests under way at once."""
        return self.endpoint.concurrency

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Open connections, with a budget and a limiter of their own."""
        import openai

        self._limiter = Limiter(self.endpoint.concurrency)
        self._budget = Budget(self._limit, self._price) if self._limit and self._price else None
        self._proven = self._answered = self._refuses_schema = False
        self._first = asyncio.Lock()
        self._openai: AsyncOpenAI = openai.AsyncOpenAI(
            api_key=api_key(self.endpoint.base_url),
            base_url=self.endpoint.base_url,
            timeout=openai.Timeout(self.endpoint.timeout, connect=min(10.0, self.endpoint.timeout / 2)),
            max_retries=0,
        )
        async with self._openai:
            yield

    async def ask(self, messages: list[Message], options: Options) -> Reply:
        """One reply, after as many attempts as it takes and the endpoint's patience allows.

        Raises:
            NoReply: this chat cannot be answered.
            JudgeError: none can be answered here (401, 403, 404, no quota, no server).
        """
        may_drop = options.schema is not None and not options.schema_needed
        if may_drop and self._refuses_schema:
            options = replace(options, schema=None)
        try:
            return await self._patiently(messages, options)
        except Fault as fault:
            if not (fault.status in (400, 422) and may_drop and options.schema is not None):
                raise
        reply = await self._patiently(messages, replace(options, schema=None))
        self._refuses_schema = True
        return reply

    async def _patiently(self, messages: list[Message], options: Options) -> Reply:
        failures, refusals, waited, spent = 0, 0, 0.0, NOTHING
        while True:
            async with self._limiter.slot():
                sent_at = time.monotonic()
                try:
                    reply = await self._gated(messages, options)
                except Fault as fault:
                    failed = fault
                else:
                    self._limiter.succeeded()
                    return replace(reply, spent=spent + reply.spent)
            spent = failed.spent = spent + failed.spent
            if failed.kind == "fatal":
                raise JudgeError(
                    f"judge model {self.endpoint.model} at {self.endpoint.base_url}: {failed.reason}"
                    f" (HTTP {failed.status}); stopped, what was judged so far is kept"
                ) from None
            if failed.kind == "final":
                raise failed
            failures += failed.kind == "transient"
            refusals += failed.kind == "rate_limit"
            wait = failed.wait if failed.wait is not None else self._backoff(failures + refusals)
            if failed.kind == "rate_limit":
                waited += max(wait, self.endpoint.backoff)
                if waited > self.endpoint.patience:
                    reason = "rate limited for longer than the judge's patience"
                    raise Fault("final", reason, status=429, spent=spent)
                self._limiter.refused(wait, sent_at)
            elif failures >= self.endpoint.tries and failed.unreachable and not self._answered:
                raise JudgeError(
                    f"no server answers at {self.endpoint.base_url} ({failures} attempts); "
                    "start it or correct the judge's base_url"
                ) from None
            elif failures >= self.endpoint.tries or wait > self.endpoint.patience:
                reason = f"{failed.reason}, {failures} times"
                raise Fault("final", reason, status=failed.status, spent=spent)
            else:
                await asyncio.sleep(wait)

    def _backoff(self, failures: int) -> float:
        return float(self.endpoint.backoff * 2 ** (failures - 1) * random.uniform(0.5, 1.0))

    async def _gated(self, messages: list[Message], options: Options) -> Reply:
        """Until one request has come through without a fatal answer, requests go one at a time."""
        if not self._proven:
            async with self._first:
                if not self._proven:
                    try:
                        reply = await self._once(messages, options)
                    except Fault as fault:
                        self._proven = fault.kind != "fatal"
                        raise
                    self._proven = True
                    return reply
        return await self._once(messages, options)

    async def _once(self, messages: list[Message], options: Options) -> Reply:
        import openai

        create: Any = self._openai.chat.completions.with_raw_response.create
        reserved, spent = await self._reserve(messages, options.max_tokens), NOTHING
        try:
            async with asyncio.timeout(self.endpoint.timeout):
                # Messages go in as `extra_body`: the client walks typed parameters key by key, which
                # took a third of the time of a request.
                raw = await create(
                    model=self.endpoint.model, messages=[], extra_body=_body(messages, options)
                )
                body = raw.content
            self._answered = True
            reply = read_completion(body, options.cut_reply_counts)
            spent = reply.spent
        except Fault as fault:
            spent = fault.spent
            raise
        except TimeoutError:
            raise Fault("transient", f"no complete reply within {self.endpoint.timeout:g} s") from None
        except openai.APIConnectionError as error:
            unreachable = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
            timed_out = isinstance(error, openai.APITimeoutError)
            reason = "the request timed out" if timed_out else "the connection failed"
            raise Fault("transient", reason, unreachable=unreachable) from None
        except openai.APIStatusError as error:
            self._answered = True
            code = error.code if isinstance(error.code, str) else None
            raise status_fault(error.status_code, error.response.headers, code) from None
        finally:
            if self._budget:
                self._budget.settle(reserved, spent)
        # Half a surrogate pair, which JSON can name, fits into no file.
        text = redact(reply.text).encode("utf-8", "replace").decode("utf-8")
        return Reply(text, _shown(redact(reply.model)), spent)

    async def _reserve(self, messages: list[Message], max_tokens: int) -> float:
        """Set one attempt's worst case aside; waits for attempts under way when the budget is nearly spent."""
        if self._budget is None:
            return 0.0
        while (amount := self._budget.reserve(messages, max_tokens)) is None:
            if not self._budget.waiting:
                raise Fault("final", f"the budget of {self._budget.limit:g} USD is spent")
            await asyncio.sleep(0.02)
        return amount


def _body(messages: list[Message], options: Options) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": messages, "max_tokens": options.max_tokens}
    if options.temperature is not None:
        body["temperature"] = options.temperature
    if options.schema is not None:
        schema = {"name": "judgement", "strict": True, "schema": options.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _shown(model: str) -> str:
    """A model's name as it may stand in records: where a server's folder lies is nobody's business."""
    name = re.sub(r"[^\w./:@ +-]", "?", model)
    return name.rsplit("/", 1)[-1] if name.startswith("/") else name


class Limiter:
    """How many requests are under way at once: halved by a 429, raised again by successes (additive increase,
    multiplicative decrease), with a pause shared by all requests.
    """

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.limit = float(maximum)
        self.running = 0
        self.resume_at = 0.0
        self._halved_at = 0.0
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a place and for the end of a pause, then hold the place."""
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self.running < max(1, int(self.limit)))
                pause = self.resume_at - time.monotonic()
                if pause <= 0:
                    self.running += 1
                    break
            await asyncio.sleep(pause)
        try:
            yield
        finally:
            async with self._changed:
                self.running -= 1
                self._changed.notify()

    def succeeded(self) -> None:
        """One more request in about `limit` successes."""
        self.limit = min(float(self.maximum), self.limit + 1 / self.limit)

    def refused(self, wait: float, sent_at: float) -> None:
        """A 429: halve once for all requests sent before the last halving, and pause for `wait` seconds."""
        now = time.monotonic()
        if sent_at >= self._halved_at:
            self.limit = max(1.0, self.limit / 2)
            self._halved_at = now
        self.resume_at = max(self.resume_at, now + wait)
