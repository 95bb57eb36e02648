"""The interface of a vision-language model: chats in, tokens out, decoder layers visible.

Defenses, the adapter and the analysis work with any `Backbone`. What an engine cannot do it does not declare, and a
defense that needs it is refused before a model is loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor
from transformers import LogitsProcessor

from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.encoding import Encoded
from shiftdc_eval.backbones.generation import Generated, GenerationSettings
from shiftdc_eval.core.model_spec import ModelArguments
from shiftdc_eval.steering import PREFILL, Edit, Scope

Capability = Literal[
    "generate",
    "begin",
    "stop_after",
    "activations",
    "edit_prefill",
    "edit_decode",
    "edit_image",
    "final_norm",
    "logits",
]
"""What a backbone can do:

- `generate`: answer chats.
- `begin`: answer chats whose answer is begun.
- `stop_after`: the setting of that name, and whether an answer has `ended`.
- `activations`: `last_token_activations`, the residual stream of the last prompt token after each decoder layer.
- `edit_prefill`: `generate(edit=...)` at the output of decoder layers, last prompt token, in prefill (`PREFILL`).
- `edit_decode`: `Scope` of the newest or all tokens, at any pass and site, and `layers` that take hooks.
- `edit_image`: `Scope` of the image tokens, and `word_embeddings`.
- `final_norm`: the norm before the language-model head.
- `logits`: logits processors, `follower` and `next_token_logits`.
"""
EVERYTHING: frozenset[Capability] = frozenset(get_args(Capability))
IN_VLLM: frozenset[Capability] = frozenset(
    {"generate", "begin", "stop_after", "activations", "edit_prefill", "final_norm"}
)
ENGINES: dict[str, frozenset[Capability]] = {
    **dict.fromkeys(("auto", "transformers"), EVERYTHING),
    "vllm": IN_VLLM,
    "server": frozenset({"generate"}),
}
"""`engine=NAME` -> what its backbones can do, known before anything is loaded."""


def offered(model: ModelArguments) -> frozenset[Capability]:
    """What the backbone of a model will be able to do."""
    begins: frozenset[Capability] = frozenset({"begin"}) if model.continues else frozenset()
    return ENGINES[model.engine] | begins


EditBuilder = Callable[[list[int]], Mapping[int, Edit]]
"""Rows of a sub-batch (indices into the batch) -> layer index -> edit."""
ProcessorBuilder = Callable[[Sequence[int], Encoded], Iterable[LogitsProcessor]]
"""Rows of a sub-batch and its prompts -> logits processors."""


class NextLogits(Protocol):
    """Runs given answer tokens after other prompts, step by step."""

    def next_logits(self, answered: Tensor) -> Tensor:
        """Logits of the next token, `[batch, vocabulary]`, after the answer tokens so far, `[batch, tokens]`."""


class Backbone(Protocol):
    """A vision-language model, whatever runs it."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this backbone can do."""

    @property
    def name(self) -> str:
        """Model id or folder as the user gave it."""

    @property
    def revision(self) -> str:
        """Commit of the hub, or a hash of the weights."""

    @property
    def note(self) -> str:
        """A caveat that is recorded with every result of this model."""

    @property
    def architecture(self) -> str:
        """Class of the model."""

    @property
    def template_sha256(self) -> str:
        """Hash of the chat template."""

    @property
    def contrast_file(self) -> Path | None:
        """Contrast set that comes in the model's folder, or None."""

    @property
    def dtype(self) -> torch.dtype:
        """Compute dtype."""

    @property
    def attention(self) -> str:
        """Attention kernel."""

    @property
    def engine(self) -> str:
        """The engine that answers."""

    @property
    def engine_version(self) -> str:
        """Distribution and version of the engine; empty where it is transformers."""

    @property
    def edits_made(self) -> Counter[int]:
        """Decoder layer -> requests in which it was edited since loading; empty where the engine does not count."""

    @property
    def hardware(self) -> str:
        """What the model runs on, in words: seconds measured on other hardware are not comparable."""

    @property
    def device(self) -> torch.device:
        """Device of the tensors that are returned."""

    @property
    def layers(self) -> Sequence[Any]:
        """One entry a decoder layer: modules that take hooks where the backbone can `edit_decode`."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""

    @property
    def context(self) -> int | None:
        """Tokens of the longest prompt that the model was made for; None where its configuration does not say."""

    @property
    def skipped_without_image(self) -> frozenset[int]:
        """Decoder layers that a prompt without images skips (cross-attention layers)."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""

    def check_system_prompt(self) -> None:
        """Make sure that a system prompt reaches the model.

        Raises:
            ModelError: the chat template drops it or prints it wrongly.
        """

    def generate(
        self,
        chats: Sequence[Chat],
        settings: GenerationSettings,
        *,
        seeds: Sequence[str] | None = None,
        edit: EditBuilder | None = None,
        scope: Scope = PREFILL,
        processors: ProcessorBuilder | None = None,
    ) -> list[Generated]:
        """Answer chats with and without images, in order.

        Args:
            chats: what is asked.
            settings: decoding settings, the same for the whole batch.
            seeds: one string per chat that seeds its sampling; needed only when sampling.
            edit: gives the edits of activations for a sub-batch.
            scope: which tokens, passes and side of the layers are edited; the last prompt token by default.
            processors: extra logits processors for a sub-batch, put before sampling.

        Raises:
            ConfigError: the settings do not fit together.
            ItemError: one of the chats cannot be answered, others can: an image that the processor refuses, logits
                that are not finite.
            ModelError: a layer that was to be edited was not reached, or images are no tokens of the prompt (Mllama)
                where these are to be edited.
        """

    def last_token_activations(
        self,
        chats: Sequence[Chat],
        only: Sequence[int] | None = None,
        *,
        bare: bool = False,
        edit: EditBuilder | None = None,
        scope: Scope = PREFILL,
    ) -> Tensor:
        """Activations of the last prompt token at the output of the decoder layers.

        Args:
            chats: any mix of chats with and without images.
            only: layer indices; all layers when None.
            bare: leave out the chat template and take the request's text alone (text-only chats).
            edit: gives edits of activations for a sub-batch; what is returned is what they leave.
            scope: where edits act.

        Returns:
            `[batch, layers, hidden]` on the model's device, in the model's dtype.
        """

    def final_norm(self, activations: Tensor) -> Tensor:
        """The norm between the last decoder layer and the language-model head, `[..., hidden]`."""

    def next_token_logits(self, activations: Tensor) -> Tensor:
        """Logits of the next token from activations of a decoder layer: `[..., vocabulary]`, float32."""

    def word_embeddings(self, words: Sequence[str]) -> Tensor:
        """Mean row of the input embedding matrix over the tokens of each word: `[words, hidden]`, float32.

        Raises:
            ModelError: the tokenizer has no token for a word.
        """

    def follower(self, chats: Sequence[Chat]) -> NextLogits:
        """Runs the tokens of an answer after other prompts (contrastive decoding)."""

    def fitting_rows(self, chat: Chat, new_tokens: int) -> int | None:
        """Chats like this one that can be answered together; None where that is not known."""

    @property
    def refills(self) -> bool:
        """Whether further chats take the places of finished ones, so that more may be handed over at once."""

    def release(self) -> None:
        """Give back memory that is kept between calls."""

    def set_aside(self) -> AbstractContextManager[None]:
        """Leave the accelerator's memory to another model for as long as the context lasts."""


class Wrapper:
    """Base of a backbone that stands in front of another and changes some of its methods; the rest is the other's.

    A type checker cannot see that rest: `cast(Backbone, ...)` where a backbone is asked for.

    Args:
        inner: the backbone that everything else is asked of.
    """

    def __init__(self, inner: Backbone) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # not set yet: a copy that is being made
            raise AttributeError(name)
        return getattr(self.inner, name)
