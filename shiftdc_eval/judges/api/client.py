"""Requests to one OpenAI-compatible endpoint: which are repeated, when, and what ends the run."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from shiftdc_eval.core.errors import JudgeError
from shiftdc_eval.judges.api.budget import Spending, Usage, prompt_size
from shiftdc_eval.judges.api.endpoint import Endpoint, api_key, redact
from shiftdc_eval.judges.api.reply import Fault, Reply, read_completion, status_fault
from shiftdc_eval.judges.limiter import Limiter
from shiftdc_eval.judges.rubric import Message

if TYPE_CHECKING:
    from openai import AsyncOpenAI


class Client:
    """Asks one endpoint within one event loop."""

    def __init__(self, endpoint: Endpoint, spending: Spending) -> None:
        self.endpoint = endpoint
        self.spending = spending
        self.limiter = Limiter(endpoint.concurrency)
        self._proven = False
        self._answered = False
        self._first = asyncio.Lock()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Client]:
        """Open connections for the time of the context."""
        import openai

        timeout = openai.Timeout(self.endpoint.timeout, connect=min(10.0, self.endpoint.timeout / 2))
        self._openai: AsyncOpenAI = openai.AsyncOpenAI(
            api_key=api_key(self.endpoint.base_url),
            base_url=self.endpoint.base_url,
            timeout=timeout,
            max_retries=0,
        )
        async with self._openai:
            yield self

    async def ask(
        self,
        messages: list[Message],
        usage: Usage,
        *,
        max_tokens: int,
        cut_reply_counts: bool = False,
        **options: Any,
    ) -> Reply:
        """One reply, after as many attempts as it takes and the endpoint's patience allows.

        Args:
            usage: books the tokens of every attempt at this item.

        Raises:
            Fault: this item cannot be judged.
            JudgeError: nothing can be judged here (401, 403, 404, no quota, no server).
        """
        failures, refusals, waited = 0, 0, 0.0
        while True:
            async with self.limiter.slot():
                sent_at = time.monotonic()
                try:
                    reply = await self._gated(messages, usage, max_tokens, cut_reply_counts, options)
                except Fault as fault:
                    failed = fault
                else:
                    self.limiter.succeeded()
                    return reply
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
                    raise Fault("final", "rate limited for longer than the judge's patience", status=429)
                self.limiter.refused(wait, sent_at)
            elif failures >= self.endpoint.tries and failed.unreachable and not self._answered:
                raise JudgeError(
                    f"no server answers at {self.endpoint.base_url} ({failures} attempts); "
                    "start it or correct the judge's base_url"
                ) from None
            elif failures >= self.endpoint.tries or wait > self.endpoint.patience:
                raise Fault("final", f"{failed.reason}, {failures} times", status=failed.status)
            else:
                await asyncio.sleep(wait)

    def _backoff(self, failures: int) -> float:
        return float(self.endpoint.backoff * 2 ** (failures - 1) * random.uniform(0.5, 1.0))

    async def _gated(
        self,
        messages: list[Message],
        usage: Usage,
        max_tokens: int,
        cut_reply_counts: bool,
        options: dict[str, Any],
    ) -> Reply:
        """Until one request has come through without a fatal answer, requests go one at a time."""
        if not self._proven:
            async with self._first:
                if not self._proven:
                    try:
                        reply = await self._once(messages, usage, max_tokens, cut_reply_counts, options)
                    except Fault as fault:
                        self._proven = fault.kind != "fatal"
                        raise
                    self._proven = True
                    return reply
        return await self._once(messages, usage, max_tokens, cut_reply_counts, options)

    async def _once(
        self,
        messages: list[Message],
        usage: Usage,
        max_tokens: int,
        cut_reply_counts: bool,
        options: dict[str, Any],
    ) -> Reply:
        import openai

        create: Any = self._openai.chat.completions.with_raw_response.create
        reserved = await self._reserve(messages, max_tokens)
        try:
            async with asyncio.timeout(self.endpoint.timeout):
                # Messages go in as `extra_body`: the client walks typed parameters key by key, which
                # took a third of the time of a request.
                body_fields = {"messages": messages, "max_tokens": max_tokens, **options}
                raw = await create(model=self.endpoint.model, messages=[], extra_body=body_fields)
                body = raw.content
            self._answered = True
            reply = read_completion(body, cut_reply_counts)
        except Fault as fault:
            if fault.usage is not None:
                self._book(usage, *fault.usage)
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
            self.spending.release(reserved)
        self._book(usage, reply.tokens_in, reply.tokens_out)
        # Half a surrogate pair, which JSON can name, fits into no file.
        text = redact(reply.text).encode("utf-8", "replace").decode("utf-8")
        return Reply(text, _printable(redact(reply.model)), reply.tokens_in, reply.tokens_out)

    def _book(self, usage: Usage, tokens_in: int | None, tokens_out: int | None) -> None:
        for account in (self.spending, usage):
            account.add(tokens_in, tokens_out)

    async def _reserve(self, messages: list[Message], max_tokens: int) -> float:
        """Set one attempt's worst case aside; waits for attempts under way when the budget is nearly spent."""
        if self.spending.limit is None:
            return 0.0
        characters, images = prompt_size(messages)
        while (amount := self.spending.reserve(characters, max_tokens, images)) is None:
            if not self.spending.waiting:
                raise Fault("final", f"the budget of {self.spending.limit:g} USD is spent")
            await asyncio.sleep(0.02)
        return amount


def _printable(text: str) -> str:
    return re.sub(r"[^\w./:@ +-]", "?", text)
