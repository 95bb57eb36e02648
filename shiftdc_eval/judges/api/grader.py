"""Putting one item to the judge model and reading what it says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from PIL import Image

from shiftdc_eval.judges.api.budget import Usage
from shiftdc_eval.judges.api.client import Client
from shiftdc_eval.judges.api.reply import Fault
from shiftdc_eval.judges.parsing import PARSERS
from shiftdc_eval.judges.rubric import Message, Rubric
from shiftdc_eval.judges.verdict import Item, Verdict

Structured = Literal["auto", "on", "off"]
T = TypeVar("T")


@dataclass
class Asker:
    """Asks about items one by one, each independent of the others."""

    client: Client
    rubric: Rubric
    parser: str
    guarded: bool
    structured: Structured
    temperature: float | None
    _no_schema: bool = field(default=False, init=False)
    """The server has refused structured output."""

    async def judge(self, item: Item, image: Image.Image | None, usage: Usage) -> Verdict:
        """The verdict of one reply, asked for again where the rubric says so.

        Args:
            usage: books the tokens of every reply.

        Raises:
            Fault: no reply.
            JudgeError: nothing can be judged here.
        """
        messages = self.rubric.messages(item, self.guarded, image=image)
        temperature = self.temperature
        for attempt in range(1 + self.rubric.retries):
            verdict = await self._ask(messages, temperature, usage)
            if verdict.scored:
                break
            if attempt == 0 and self.rubric.retry_suffix and isinstance(messages[-1]["content"], str):
                messages[-1]["content"] += self.rubric.retry_suffix
            elif temperature is not None:
                temperature += 0.5
        return verdict

    async def _ask(self, messages: list[Message], temperature: float | None, usage: Usage) -> Verdict:
        options: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
        # Once, before the request: another request may learn meanwhile that the server refuses schemas.
        wanted = self._format()
        try:
            reply = await self.client.ask(
                messages,
                usage,
                max_tokens=self.rubric.max_tokens,
                cut_reply_counts=self.rubric.cut_reply_counts and not self.guarded,
                **options,
                **wanted,
            )
        except Fault as fault:
            if not (fault.status in (400, 422) and self.structured == "auto" and wanted):
                raise
            reply = await self.client.ask(messages, usage, max_tokens=self.rubric.max_tokens, **options)
            self._no_schema = True
        parsed = PARSERS[self.parser](reply.text, self.rubric)
        # A server may name its model by a folder; where that lies is nobody's business.
        model = reply.model.rsplit("/", 1)[-1] if reply.model.startswith("/") else reply.model
        if parsed.value is None:
            reason = parsed.reason or "the reply cannot be read"
        else:
            reason = "; ".join(filter(None, [parsed.reason, f"by {model}" if model else ""]))
        return Verdict(
            kind=self.rubric.kind,
            value=parsed.value,
            reason=reason,
            raw=reply.text,
            model=model,
        )

    def _format(self) -> dict[str, Any]:
        """The request for structured output, where it is wanted and this parser reads JSON."""
        key = {"labelled": "verdict", "score": "score"}.get(self.parser)
        if key is None or not self.guarded or self.structured == "off" or self._no_schema:
            return {}
        value: dict[str, Any] = (
            {"type": "string", "enum": list(self.rubric.labels)} if key == "verdict" else {"type": "number"}
        )
        schema = {
            "type": "object",
            "properties": {"why": {"type": "string"}, key: value},
            "required": ["why", key],
            "additionalProperties": False,
        }
        return {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "judgement", "strict": True, "schema": schema},
            }
        }


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where an event loop is running already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    outcome: list[T] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
