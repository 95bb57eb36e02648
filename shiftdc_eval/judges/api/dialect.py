"""Which parameters a model takes: newer OpenAI models know no `max_tokens` and no `temperature`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from shiftdc_eval.judges.api.reply import ServerError
from shiftdc_eval.judges.chat_model import Message, Options

_UNSUPPORTED = re.compile(
    r"unsupported|not supported|does not support|only the default|unrecognized|unknown|deprecated|not permitted",
    re.I,
)


@dataclass(frozen=True)
class Dialect:
    """How options are written into a request; learned from the server's errors, once per judge."""

    completion_tokens: bool = False
    """True: the limit of the reply is called `max_completion_tokens`."""
    temperature: bool = True
    """False: the model takes none."""

    def after(self, said: ServerError, options: Options) -> Dialect:
        """The dialect that an error asks for; this one where it names no parameter that could be changed."""
        words = f"{said.code} {said.message}"
        if not _UNSUPPORTED.search(words):
            return self
        if options.max_tokens and not self.completion_tokens and _names("max_tokens", said):
            return replace(self, completion_tokens=True)
        if options.temperature is not None and self.temperature and _names("temperature", said):
            return replace(self, temperature=False)
        return self

    def body(self, model: str, messages: list[Message], options: Options) -> dict[str, Any]:
        """The body of a request."""
        body: dict[str, Any] = {"model": model, "messages": messages}
        if options.max_tokens is not None:
            body["max_completion_tokens" if self.completion_tokens else "max_tokens"] = options.max_tokens
        if options.temperature is not None and self.temperature:
            body["temperature"] = options.temperature
        if options.schema is not None:
            schema = {"name": "judgement", "strict": True, "schema": options.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def note(self, options: Options) -> str:
        """A note for the verdict that says which options were sent differently or not at all."""
        changed = []
        if options.max_tokens is not None and self.completion_tokens:
            changed.append("with max_completion_tokens")
        if options.temperature is not None and not self.temperature:
            changed.append("without temperature")
        return f"asked {' and '.join(changed)}" if changed else ""


def _names(parameter: str, said: ServerError) -> bool:
    return said.param == parameter or (not said.param and f"{parameter}" in said.message)
