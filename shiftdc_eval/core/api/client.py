"""A chat model behind an OpenAI-compatible endpoint: which requests are retried, when, and which errors end the run."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx

from shiftdc_eval.core.api.budget import BUDGET_SPENT, Budget
from shiftdc_eval.core.api.chat_model import NOTHING, Message, Options, Reply
from shiftdc_eval.core.api.dialect import Dialect
from shiftdc_eval.core.api.endpoint import Endpoint, api_key, redact
from shiftdc_eval.core.api.limiter import Limiter
from shiftdc_eval.core.api.prices import Price
from shiftdc_eval.core.api.reply import Fault, read_completion, status_fault
from shiftdc_eval.core.api.transport import capped, open_client, proxy_in_the_way


class ApiModel:
    """The model of one endpoint, as a `ChatModel`.

    Args:
        budget: USD that may be spent within one `connected`; None: no limit. Needs a price.
    """

    def __init__(self, endpoint: Endpoint, price: Price | None = None, budget: float | None = None) -> None:
        self.endpoint = endpoint
        self._price = price
        self._limit = budget
        self._dialect = Dialect()

    @property
    def identity(self) -> Mapping[str, object]:
        """Model and address. The port counts: two servers of one machine may both call their model `default`."""
        return {"model": self.endpoint.model, "address": self.endpoint.address}

    @property
    def concurrency(self) -> int:
        """Most requests in flight at once."""
        return self.endpoint.concurrency

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Open connections, with a budget and a limiter of their own.

        Raises:
            ShiftDCError: the key or the proxy of the environment cannot be used.
        """
        self._limiter = Limiter(self.endpoint.concurrency)
        self._budget = Budget(self._limit, self._price) if self._limit and self._price else None
        self._proven = self._answered = self._refuses_schema = False
        self._limited_since: float | None = None
        self._first = asyncio.Lock()
        self._proxy = proxy_in_the_way(self.endpoint.base_url)
        async with open_client(self.endpoint) as self._http:
            yield

    async def ask(self, messages: list[Message], options: Options) -> Reply:
        """One reply, after as many attempts as it takes and the endpoint's patience allows.

        Raises:
            NoReply: this chat cannot be answered.
            ShiftDCError: of the role's kind: none can be answered (401, 403, 404, a redirect, no quota, no server).
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
        role = self.endpoint.role
        while True:
            async with self._limiter.slot():
                sent_at = time.monotonic()
                try:
                    reply = await self._gated(messages, options)
                except Fault as fault:
                    failed = fault
                else:
                    self._limiter.succeeded()
                    self._limited_since = None
                    return replace(reply, spent=spent + reply.spent)
            spent = failed.spent = spent + failed.spent
            if failed.kind == "fatal":
                raise role.error(
                    f"{role.subject} {self.endpoint.model} at {self.endpoint.base_url}: {failed.reason}"
                    f" (HTTP {failed.status}){self._proxy}; stopped, what was {role.done} so far is kept"
                ) from None
            if failed.kind == "final":
                failed.reason += self._proxy
                raise failed
            failures += failed.kind == "transient"
            refusals += failed.kind == "rate_limit"
            # a floor: a server may ask for no wait at all, or a negative one
            wait = max(failed.wait or 0.0, self._backoff(failures + refusals))
            if failed.kind == "rate_limit":
                waited += wait
                self._limited_since = self._limited_since or sent_at
                if max(waited, time.monotonic() - self._limited_since) > self.endpoint.patience:
                    reason = f"rate limited for longer than the {role.name}'s patience"
                    raise Fault("final", reason, status=429, spent=spent, blame="server")
                self._limiter.refused(wait, sent_at)
            elif failures >= self.endpoint.tries and failed.unreachable and not self._answered:
                raise role.error(
                    f"no server answers at {self.endpoint.base_url} ({failures} attempts){self._proxy}; "
                    f"start it or correct the {role.name}'s base_url"
                ) from None
            elif failures >= self.endpoint.tries or wait > self.endpoint.patience:
                reason = f"{failed.reason}, {failures} times{self._proxy}"
                raise Fault("final", reason, status=failed.status, spent=spent, blame="server")
            else:
                await asyncio.sleep(wait)

    def _backoff(self, failures: int) -> float:
        return float(self.endpoint.backoff * 2 ** min(failures - 1, 16) * random.uniform(0.5, 1.0))

    async def _gated(self, messages: list[Message], options: Options) -> Reply:
        """Send requests one at a time until one has returned without a fatal error."""
        if not self._proven:
            async with self._first:
                if not self._proven:
                    try:
                        reply = await self._learning(messages, options)
                    except Fault as fault:
                        self._proven = fault.kind != "fatal"
                        raise
                    self._proven = True
                    return reply
        return await self._learning(messages, options)

    async def _learning(self, messages: list[Message], options: Options) -> Reply:
        """A reply; a parameter that the model does not know is learned from its error and never sent again."""
        while True:
            dialect = self._dialect
            try:
                return await self._once(messages, options)
            except Fault as fault:
                if fault.status not in (400, 422):
                    raise
                learned = dialect.after(fault.said, options)
                if learned == dialect == self._dialect:
                    raise
                if self._dialect == dialect:  # else another request has learned meanwhile
                    self._dialect = learned

    async def _once(self, messages: list[Message], options: Options) -> Reply:
        body = self._dialect.body(self.endpoint.model, messages, options)
        note = self._dialect.note(options)
        reserved, spent = await self._reserve(messages, options.max_tokens or 0), NOTHING
        try:
            async with asyncio.timeout(self.endpoint.timeout):
                headers, content = (
                    {"Authorization": f"Bearer {api_key(self.endpoint)}"},
                    json.dumps(body),
                )
                url = f"{self.endpoint.base_url}/chat/completions"
                async with self._http.stream("POST", url, headers=headers, content=content) as response:
                    received = await capped(response)
            self._answered = True
            if not response.is_success:
                raise status_fault(response.status_code, response.headers, received)
            reply = read_completion(received, options, self.endpoint.role.name)
            spent = reply.spent
        except Fault as fault:
            spent = fault.spent
            raise
        except TimeoutError:
            raise Fault("transient", f"no complete reply within {self.endpoint.timeout:g} s") from None
        except httpx.TimeoutException as error:
            unreachable = isinstance(error, httpx.ConnectTimeout)
            raise Fault("transient", "the request timed out", unreachable=unreachable) from None
        except httpx.TransportError as error:
            unreachable = isinstance(error, httpx.ConnectError | httpx.ProxyError)
            raise Fault("transient", "the connection failed", unreachable=unreachable) from None
        finally:
            if self._budget:
                self._budget.settle(reserved, spent)
        # Half a surrogate pair, which JSON can name, fits into no file.
        text = redact(reply.text).encode("utf-8", "replace").decode("utf-8")
        return replace(reply, text=text, model=_shown(redact(reply.model)), note=note)

    async def _reserve(self, messages: list[Message], max_tokens: int) -> float:
        """Reserve the worst-case cost of one attempt; waits for requests in flight when the budget is nearly spent."""
        if self._budget is None:
            return 0.0
        while (amount := self._budget.reserve(messages, max_tokens)) is None:
            if not self._budget.waiting:
                raise Fault("final", f"{BUDGET_SPENT} {self._budget.limit:g} USD is spent")
            await asyncio.sleep(0.02)
        return amount


def _shown(model: str) -> str:
    """A model's name as records may hold it: of a path on the server, the last part alone."""
    name = re.sub(r"[^\w./:@ +-]", "?", model)
    return name.rsplit("/", 1)[-1] if name.startswith("/") else name
