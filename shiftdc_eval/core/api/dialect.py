"""Which parameters a model takes: newer OpenAI models know no `max_tokens` and no `temperature`."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from shiftdc_eval.core.api.chat_model import Message, Options
from shiftdc_eval.core.api.reply import ServerError

_UNSUPPORTED = re.compile(
    r"unsupported|not supported|does not support|only the default|unrecognized|unknown|deprecated|not permitted",
    re.I,
)


OPTIONAL = ("temperature", "seed")
"""Parameters that are left out for a model that does not take them."""


@dataclass(frozen=True)
class Dialect:
    """How options are written into a request; learned from the server's errors, once per client."""

    completion_tokens: bool = False
    """True: the limit of the reply is called `max_completion_tokens`."""
    without: frozenset[str] = frozenset()
    """Of `OPTIONAL`, what the model does not take."""

    def after(self, said: ServerError, options: Options) -> Dialect:
        """The dialect that an error asks for; this one where it names no parameter that could be changed."""
        words = f"{said.code} {said.message}"
        if not _UNSUPPORTED.search(words):
            return self
        if options.max_tokens and not self.completion_tokens and _names("max_tokens", said):
            return replace(self, completion_tokens=True)
        for name in OPTIONAL:
            if name in self._given(options) and _names(name, said):
                return replace(self, without=self.without | {name})
        return self

    def _given(self, options: Options) -> dict[str, Any]:
        """What is sent of the options that a server may not know."""
        given = {name: getattr(options, name) for name in (*OPTIONAL, "top_p", "top_k")}
        return {
            name: value for name, value in given.items() if value is not None and name not in self.without
        }

    def body(self, model: str, messages: list[Message], options: Options) -> dict[str, Any]:
        """The body of a request."""
        body: dict[str, Any] = {"model": model, "messages": messages}
        if options.max_tokens is not None:
            body["max_completion_tokens" if self.completion_tokens else "max_tokens"] = options.max_tokens
        body |= self._given(options)
        if options.continues:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        if options.schema is not None:
            schema = {"name": "judgement", "strict": True, "schema": options.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    def note(self, options: Options) -> str:
        """A note for the verdict that says which options were sent differently or not at all."""
        changed = []
        if options.max_tokens is not None and self.completion_tokens:
            changed.append("with max_completion_tokens")
        changed += [
            f"without {name}"
            for name in OPTIONAL
            if name in self.without and getattr(options, name) is not None
        ]
        return f"asked {' and '.join(changed)}" if changed else ""


def _names(parameter: str, said: ServerError) -> bool:
    return said.param == parameter or (not said.param and f"{parameter}" in said.message)
