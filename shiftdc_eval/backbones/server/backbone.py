"""A model behind an OpenAI-compatible server, as a backbone that answers and can do nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, ClassVar

from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.generation import Generated, GenerationSettings, cut
from shiftdc_eval.backbones.interface import offered
from shiftdc_eval.backbones.server.background import Background
from shiftdc_eval.backbones.server.messages import any_as_jpeg, messages_of, options_of
from shiftdc_eval.core.api.budget import BUDGET_SPENT
from shiftdc_eval.core.api.chat_model import NOTHING, NoReply, Reply, Spent
from shiftdc_eval.core.api.client import ApiModel
from shiftdc_eval.core.api.endpoint import ServedModel, api_key
from shiftdc_eval.core.api.prices import PRICES_VARIABLE, Price, price_of
from shiftdc_eval.core.errors import ConfigError, ItemError, ModelError, ShiftDCError
from shiftdc_eval.core.model_spec import ENDPOINT_SETTINGS, ModelArguments

NOTE = "served, weights not known"
"""Shown with every result of such a model."""
NO_ANSWER = "no answer from the server: "
"""How the reason of an item begins that the server failed at."""
FILTERED = "blocked by the provider's content filter"
"""How the reason of an item begins that a provider's content filter keeps from being answered."""
UNSEEN = frozenset(
    {"layers", "hidden_size", "tokenizer", "skipped_without_image", "device", "last_token_activations"}
    | {"final_norm", "next_token_logits", "follower"}
)
"""What there is of a backbone that is loaded here alone."""


@dataclass
class Ledger:
    """What one answer took, all of its requests together."""

    spent: Spent = NOTHING
    notes: dict[str, None] = field(default_factory=dict)
    """What a reader should know of how it was asked for, in the order it came."""

    def price(self, price: Price | None, more: tuple[int, int] = (0, 0)) -> float | None:
        """USD; None where the price or a count is unknown.

        Args:
            price: of the model.
            more: prompt and answer tokens of replies that were found in the caption store.
        """
        if price is None or self.spent.tokens_in is None or self.spent.tokens_out is None:
            return None
        return price.of(self.spent.tokens_in + more[0], self.spent.tokens_out + more[1])


class ServerBackbone:
    """The model of one endpoint. May be used by several threads.

    Args:
        spec: its name, `base_url` and the settings of the client.

    Raises:
        ConfigError: a budget without a price.
        ModelError: no key for a server that needs one, or a proxy that cannot be used.
    """

    engine = "server"
    engine_version = ""
    architecture = template_sha256 = dtype = attention = ""
    """Not known: what a server runs cannot be seen."""
    note = NOTE
    context: ClassVar[None] = None
    contrast_file: ClassVar[None] = None
    refills = False

    def __init__(self, spec: ModelArguments) -> None:
        given = {name: getattr(spec, name) for name in ENDPOINT_SETTINGS}
        given = {name: value for name, value in given.items() if value is not None}
        self.endpoint = ServedModel(spec.pretrained, **given)
        self.capabilities = offered(spec)
        self.price = price_of(self.endpoint.host, spec.pretrained)
        if spec.budget is not None and self.price is None:
            raise ConfigError(
                f"budget={spec.budget:g} needs the price of {spec.pretrained} at {self.endpoint.host}, which is "
                f"unknown; name a price table with {PRICES_VARIABLE}"
            )
        api_key(self.endpoint)
        self.name = spec.pretrained
        self.revision = f"served by {self.endpoint.address} as {self.name}"
        if spec.revision:
            self.revision += f", {spec.revision}"
        self.hardware = f"behind {self.endpoint.address}"
        self.edits_made: Counter[int] = Counter()
        self.served_as: Counter[str] = Counter()
        """Replies by the name that the server gives the model that made them."""
        self._model = ApiModel(self.endpoint, self.price, spec.budget)
        self._background = Background(self._model.connected())
        self._own = threading.local()
        self._counting = threading.Lock()
        self._ended: ShiftDCError | None = None

    def __getattr__(self, name: str) -> Any:
        if name in UNSEEN:
            raise ModelError(
                f"{self.name} is behind a server, where its {name.replace('_', ' ')} cannot be seen; load the model "
                "here for that (engine=transformers)"
            )
        raise AttributeError(f"{type(self).__name__} has no attribute {name}")

    @contextmanager
    def ledger(self) -> Iterator[Ledger]:
        """Books what this thread asks within the context."""
        self._own.ledger = Ledger()
        try:
            yield self._own.ledger
        finally:
            self._own.ledger = None

    def generate(
        self,
        chats: Sequence[Chat],
        settings: GenerationSettings,
        *,
        seeds: Sequence[str] | None = None,
        **inside: Any,
    ) -> list[Generated]:
        """Answer chats, all at once as far as the endpoint's `concurrency` allows.

        Args:
            chats: what is asked.
            settings: how the answers are decoded.
            seeds: one a chat; sent when sampling.
            inside: edits and logits processors, which no server takes.

        Raises:
            ItemError: a chat has no answer; the others' answers are dropped.
            ModelError: the server answers none (a wrong key, no such model, no server), or edits were asked for.
        """
        if any(value is not None for name, value in inside.items() if name != "scope"):
            raise ModelError(f"{self.name} is behind a server, where nothing can be edited")
        if settings.stop_after:
            raise ModelError(f"{self.name} is behind a server, which cannot be asked to stop after a text")
        if self._ended is not None:
            raise self._ended.with_traceback(None)
        asked = []
        for chat, seed in zip(chats, [*seeds] if seeds else repeat(None, len(chats)), strict=True):
            messages = messages_of(chat)
            if any_as_jpeg(messages):
                self._book(notes=["an image is sent as JPEG, its PNG is too large"])
            options = options_of(settings, seed)
            if chat.begun:
                messages.append({"role": "assistant", "content": chat.begun})
                options = replace(options, continues=True)
            asked.append(self._model.ask(messages, options))
        try:
            outcomes = self._background.run(_gathered(asked))
        except CancelledError:
            outcomes = [CancelledError()] * len(asked)
        found = []
        for chat, outcome in zip(chats, outcomes, strict=True):
            if isinstance(outcome, ShiftDCError):
                self._ended = outcome
                raise outcome
            if isinstance(outcome, NoReply):
                self._book(outcome.spent)
            elif isinstance(outcome, CancelledError | asyncio.CancelledError):
                raise self._ended or ModelError(f"{self.name}: a request was stopped")
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                found.append(self._read(outcome, settings, chat.begun))
        failed = next((one for one in outcomes if isinstance(one, NoReply)), None)
        if failed is not None:
            raise no_answer(failed) from None
        return found

    def _read(self, reply: Reply, settings: GenerationSettings, begun: str) -> Generated:
        notes = [reply.note] if reply.note else []
        if reply.reasoned:
            notes.append("the server gives reasoning apart from the answer")
        tokens = reply.spent.tokens_in, reply.spent.tokens_out
        if None in tokens:
            notes.append("the server does not count tokens")
        self._book(reply.spent, notes)
        if reply.model:
            with self._counting:
                self.served_as[reply.model] += 1
        return Generated(begun + cut(reply.text, settings.until), tokens[0] or 0, tokens[1] or 0, ())

    def _book(self, spent: Spent = NOTHING, notes: Sequence[str] = ()) -> None:
        ledger: Ledger | None = getattr(self._own, "ledger", None)
        if ledger is not None:
            ledger.spent += spent
            ledger.notes.update(dict.fromkeys(notes))

    def begin(self) -> None:
        """Ask again, whatever ended the last questions."""
        self._ended = None

    def cancel(self, reason: ShiftDCError | None = None) -> None:
        """Stop the requests in flight, and refuse others until `begin`."""
        self._ended = reason or ModelError(f"{self.name}: stopped while a request was in flight")
        self._background.cancel()

    def check_system_prompt(self) -> None:
        """Nothing can be known of a server's chat template."""

    def fitting_rows(self, chat: Chat, new_tokens: int) -> int | None:
        """Not known."""
        return None

    def release(self) -> None:
        """Nothing is held here."""

    def set_aside(self) -> AbstractContextManager[None]:
        """Nothing is held here."""
        return nullcontext()


def as_server(backbone: object) -> ServerBackbone | None:
    """The backbone where it is one of a server, else None."""
    return backbone if isinstance(backbone, ServerBackbone) else None


async def _gathered(asked: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*asked, return_exceptions=True)


def no_answer(failed: NoReply) -> ItemError:
    """Why an item has no answer; a server's words about a filtered prompt, which may quote it, are left out."""
    if failed.filtered:
        return ItemError("provider's content filter", f"{FILTERED} ({failed.reason.partition(':')[0]})")
    if failed.reason.startswith(BUDGET_SPENT):
        return ItemError("budget", failed.reason, failed.blame)
    kind = {
        "item": "cut before it began",
        "request": "the server refuses the request",
        "server": "the server does not answer",
    }[failed.blame]
    return ItemError(kind, f"{NO_ANSWER}{failed.reason}", failed.blame)
