"""The interface of a model that is asked by chats: a chat in, a reply out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from shiftdc_eval.core.errors import Blame

Message = dict[str, Any]
"""One chat message in OpenAI's form."""


@dataclass(frozen=True)
class Options:
    """How a chat is to be answered."""

    max_tokens: int | None
    """Most tokens of the reply; None: not sent."""
    temperature: float | None = None
    """None: not sent."""
    cut_reply_counts: bool = False
    """True: a reply that was cut at `max_tokens` is a reply."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the reply; None: free text."""
    schema_needed: bool = False
    """False: where the model refuses a schema, it is asked without."""
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    """None: not sent, as the two above."""
    continues: bool = False
    """True: the chat ends with the beginning of the reply, which is to be continued (vLLM's parameters)."""
    is_answer: bool = False
    """True: the reply is an answer under evaluation: a refusal in the field `refusal` is a reply too, and one that
    ends inside its reasoning is the reasoning."""


@dataclass(frozen=True)
class Spent:
    """Calls and tokens of a question, all attempts included."""

    calls: int = 0
    """Replies received, unusable ones included."""
    tokens_in: int | None = 0
    """Prompt tokens, as the model counts them; None: unknown."""
    tokens_out: int | None = 0
    """Reply tokens; None: unknown."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.calls + other.calls,
            _sum(self.tokens_in, other.tokens_in),
            _sum(self.tokens_out, other.tokens_out),
        )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


NOTHING = Spent()


@dataclass(frozen=True)
class Reply:
    """A complete reply."""

    text: str
    model: str = ""
    """The model that replied, as its server names it."""
    spent: Spent = Spent(1, None, None)
    cut_prompt: bool = False
    """True when the prompt was too long and lost its beginning."""
    note: str = ""
    """How it was asked for, where that is not how it was meant to be (without a temperature, say)."""
    reasoned: bool = False
    """Whether the server gave reasoning apart from the reply."""


class NoReply(Exception):
    """No usable reply to this chat; other chats may have one.

    Args:
        reason: why; what stands before its first colon is ours, what follows may be the server's words.
        spent: what the attempts took all the same.
        blame: what it is due to.
        filtered: whether the provider's content filter stands between.
    """

    def __init__(
        self, reason: str, spent: Spent = NOTHING, blame: Blame = "item", *, filtered: bool = False
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.spent = spent
        self.blame: Blame = blame
        self.filtered = filtered


class ChatModel(Protocol):
    """Answers chats, several at once."""

    @property
    def identity(self) -> Mapping[str, object]:
        """Identifies the model; part of the judge's fingerprint, JSON-ready."""

    @property
    def concurrency(self) -> int:
        """Most chats in flight at once."""

    def connected(self) -> AbstractAsyncContextManager[object]:
        """Opens what asking needs, such as connections, within one event loop."""

    async def ask(self, messages: list[Message], options: Options) -> Reply:
        """The reply to a chat.

        Raises:
            NoReply: this chat has none.
            ShiftDCError: no chat will have one (wrong key, no such model).
        """
