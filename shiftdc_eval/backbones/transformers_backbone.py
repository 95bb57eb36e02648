"""A vision-language model of transformers: the reference engine, every family, on the CPU too."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.encoding import Encoded, prefill_kwargs
from shiftdc_eval.backbones.families import image_placeholders
from shiftdc_eval.backbones.follower import Follower
from shiftdc_eval.backbones.generation import (
    FiniteLogits,
    Generated,
    GenerationSettings,
    sampling_processors,
)
from shiftdc_eval.backbones.interface import EVERYTHING, Capability, EditBuilder, ProcessorBuilder
from shiftdc_eval.backbones.layers import reachable, source
from shiftdc_eval.backbones.loaded_model import LoadedModel
from shiftdc_eval.backbones.offload import set_aside
from shiftdc_eval.core.errors import ConfigError, ModelError
from shiftdc_eval.steering import PREFILL, Scope, edit_tokens, record_last_token

PASS_TOKENS = 32_768
"""Largest number of tokens of text-only prompts in one forward pass, which bounds memory."""
MEMORY_SHARE = 0.9
"""Share of a GPU's free memory that a batch may take."""
PROMPT_ROOM = 128
"""Tokens that another prompt about a request may add to it."""


class TransformersBackbone(LoadedModel):
    """A loaded model behind the interface `Backbone`.

    Chats with and without images may be mixed in one call; they are run as separate sub-batches.
    """

    capabilities: frozenset[Capability] = EVERYTHING
    engine = "transformers"

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        revision: str,
        note: str = "",
        folder: str | None = None,
    ) -> None:
        super().__init__(model, processor, name=name, revision=revision, note=note, folder=folder)
        if self.skipped_without_image:  # its images are no tokens of the prompt
            self.capabilities = EVERYTHING - {"edit_image"}
        self.forward_passes = 0
        """Forward passes of whole prompts since loading (prefills), for tests and cost tables."""

    @property
    def refills(self) -> bool:
        """False: `generate` goes on until the longest answer of the batch has ended."""
        return False

    def fitting_rows(self, chat: Chat, new_tokens: int) -> int | None:
        """Rows like this one that fit into a GPU's free memory, their answers and longer prompts about them included.

        None on a CPU and for a model on several devices. An estimate: keys and values, twice while they grow by a
        token, and the widest activations of the prefill; what does not fit after all is halved by the caller.
        """
        if self.device.type != "cuda" or len(self.placements) > 1:
            return None
        text, columns = self.model.config.get_text_config(), self.features([chat]).width + PROMPT_ROOM
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        cached = 2 * 2 * len(self.layers) * heads * size
        prefill = 4 * text.hidden_size + 3 * text.intermediate_size
        row = ((columns + new_tokens) * cached + columns * prefill) * self.dtype.itemsize
        free, _ = torch.cuda.mem_get_info(self.device)
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return max(1, int(MEMORY_SHARE * (free + unused) / row))

    def release(self) -> None:
        """Nothing is kept between calls."""

    def set_aside(self) -> AbstractContextManager[None]:
        """Keep the weights in main memory for as long as the context lasts."""
        return set_aside(self.model)

    @torch.inference_mode()
    def last_token_activations(
        self,
        chats: Sequence[Chat],
        only: Sequence[int] | None = None,
        *,
        bare: bool = False,
        edit: EditBuilder | None = None,
        scope: Scope = PREFILL,
    ) -> Tensor:
        """As `Backbone.last_token_activations`."""
        indices = list(range(len(self.layers)) if only is None else only)
        rows: list[Tensor | None] = [None] * len(chats)
        for group in _by_images(chats):
            shown = [chats[row] for row in group]
            encoded = self.encode_bare([chat.request for chat in shown]) if bare else self.encode(shown)
            with_image = bool(shown[0].images) and not bare
            passed_by = self._passed_by(with_image)
            sources = [source(at, passed_by) for at in indices]
            edits = reachable(edit(group), passed_by, scope.site) if edit else {}
            parts = []
            # edits are of all rows
            for part in [encoded] if with_image or edits else encoded.parts(PASS_TOKENS):
                where, _ = self._where(scope, part, use_cache=True)
                # registered in this order, so that what is recorded is what the edits have left
                with (
                    edit_tokens(self.layers, edits, where, site=scope.site),
                    record_last_token(self.layers, part.width - 1, only=sorted(set(sources))) as seen,
                ):
                    self.forward(part)
                parts.append(torch.stack([seen[at].to(self.device) for at in sources], dim=1))
            stacked = torch.cat(parts)
            for row, activation in zip(group, stacked, strict=True):
                rows[row] = activation
        return torch.stack([row for row in rows if row is not None])

    def final_norm(self, activations: Tensor) -> Tensor:
        """The norm between the last decoder layer and the language-model head, `[..., hidden]`.

        Raises:
            ModelError: the decoder has no such norm.
        """
        norm = getattr(self.model.get_decoder(), "norm", None)
        if norm is None:
            raise ModelError(
                f"{self.architecture} shows no final norm: its last layer cannot be read through the norm or the head"
            )
        with torch.inference_mode():
            # under device_map the norm may be on another device
            normed: Tensor = norm(activations).to(activations.device)
        return normed

    def next_token_logits(self, activations: Tensor) -> Tensor:
        """Logits that the language-model head computes from activations of a layer: `[..., vocabulary]`, float32.

        Args:
            activations: `[..., hidden]`, before the final norm, of any layer (of a lower one: the "logit lens").

        Raises:
            ModelError: the decoder shows no final norm.
        """
        with torch.inference_mode():
            head = self.model.get_output_embeddings()
            logits: Tensor = head(self.final_norm(activations).to(head.weight.device)).float()
            cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
            return logits if cap is None else torch.tanh(logits / cap) * cap

    @torch.inference_mode()
    def word_embeddings(self, words: Sequence[str]) -> Tensor:
        """As `Backbone.word_embeddings`."""
        found = [self.tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
        if empty := [word for word, ids in zip(words, found, strict=True) if not ids]:
            raise ModelError(f"the tokenizer of {self.name} has no token for the word {empty[0]!r}")
        embed = self.model.get_input_embeddings()
        return torch.stack([embed(torch.tensor(ids, device=self.device)).float().mean(0) for ids in found])

    def forward(self, encoded: Encoded) -> None:
        """One forward pass of the prompt through the decoder, without the language-model head.

        The inputs are prepared as `generate` prepares its prefill, so that positions and masks under
        padding, and with them the activations, are those of the pass that answers.
        """
        self.forward_passes += 1
        kwargs = prefill_kwargs(self.model, encoded)
        inputs = self.model.prepare_inputs_for_generation(
            encoded.inputs["input_ids"], is_first_iteration=True, use_cache=False, **kwargs
        )
        inputs.pop("logits_to_keep", None)
        self.model.base_model(**inputs)

    def _where(self, scope: Scope, encoded: Encoded, use_cache: bool) -> tuple[int | slice | Tensor, bool]:
        """Tokens of a pass that are edited, and whether passes after the first are edited.

        Without a KV cache every pass holds the whole prompt again, so that edits of the prompt are made in every pass.
        """
        every = scope.passes == "every"
        if scope.positions == "image":
            if self.skipped_without_image:
                raise ModelError(
                    f"{self.name} ({self.architecture}) shows images to cross-attention layers and not as tokens of "
                    "the prompt: there are no image tokens to edit"
                )
            ids = encoded.inputs["input_ids"]
            places = torch.tensor(image_placeholders(self.model.config), device=ids.device)
            found = torch.isin(ids, places) & encoded.inputs["attention_mask"].bool()
            if not found.any(1).all():
                raise ModelError(
                    f"no token of a prompt of {self.name} ({self.architecture}) is known to stand for its image, so "
                    "there is nothing to edit: its configuration names no image token"
                )
            return found, not use_cache
        if scope.positions == "last":
            return (-1 if every else encoded.width - 1), every or not use_cache
        return slice(None) if every else slice(0, encoded.width), every or not use_cache

    def _passed_by(self, with_image: bool) -> frozenset[int]:
        """Layers that a prompt skips."""
        return frozenset() if with_image else self.skipped_without_image

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
        """As `Backbone.generate`."""
        if settings.do_sample and seeds is None:
            raise ConfigError(
                "sampling needs one seed per request: pass seeds=[request.seed for request in requests]"
            )
        if scope.positions == "last" and scope.passes == "every" and not settings.use_cache:
            raise ConfigError(
                "steering the newest token of every decode step needs a KV cache; leave out use_cache=false"
            )
        seeds = seeds if seeds is not None else [str(row) for row in range(len(chats))]
        answers: dict[int, Generated] = {}
        for group in _by_images(chats):
            shown, seeded = [chats[row] for row in group], [seeds[row] for row in group]
            found = self._answered(shown, settings, seeded, group, edit, scope, processors)
            answers.update(zip(group, found, strict=True))
        return [answers[row] for row in range(len(chats))]

    @torch.inference_mode()
    def _answered(
        self,
        chats: Sequence[Chat],
        settings: GenerationSettings,
        seeds: Sequence[str],
        group: list[int],
        edit: EditBuilder | None,
        scope: Scope,
        processors: ProcessorBuilder | None,
    ) -> list[Generated]:
        encoded = self.encode(chats)
        extra = LogitsProcessorList(processors(group, encoded) if processors else [])
        extra += [
            FiniteLogits(self.name, self.dtype, self.ends(settings), encoded.width),
            *sampling_processors(settings, seeds),
        ]
        edits = reachable(edit(group), self._passed_by(bool(chats[0].images)), scope.site) if edit else {}
        where, every_pass = self._where(scope, encoded, settings.use_cache)
        with edit_tokens(self.layers, edits, where, every_pass=every_pass, site=scope.site) as made:
            sequences = self._decode(encoded, settings, extra)
        missed = [layer for layer, count in made.items() if not count]
        if missed:
            raise ModelError(f"decoder layers {missed} of {self.name} were not reached by the forward pass")
        return [
            self.finished(self._unpadded(ids), length, settings, chat.begun)
            for length, ids, chat in zip(encoded.lengths, sequences.tolist(), chats, strict=True)
        ]

    def _unpadded(self, ids: list[int]) -> list[int]:
        """Answer tokens without the padding that follows an answer that a stop string ended."""
        pad = self.tokenizer.pad_token_id
        while self.stop_strings and ids and ids[-1] == pad:
            ids.pop()
        return ids

    def follower(self, chats: Sequence[Chat]) -> Follower:
        """Runs the same number of answer tokens after other prompts, step by step (contrastive decoding)."""
        self.forward_passes += 1
        return Follower(self.model, self.encode(chats))

    def _decode(self, encoded: Encoded, settings: GenerationSettings, extra: LogitsProcessorList) -> Tensor:
        self.forward_passes += 1
        output: Tensor = self.model.generate(
            **encoded.inputs,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            max_new_tokens=settings.max_new_tokens,
            max_length=None,
            use_cache=settings.use_cache,
            logits_processor=extra,
            pad_token_id=self.tokenizer.pad_token_id,
            **({"eos_token_id": sorted(self.ends(settings))} if settings.stop_after else {}),
            suppress_tokens=self.placeholder_ids() or None,
            **({"tokenizer": self.tokenizer} if self.stop_strings else {}),
        )
        return output[:, encoded.width :]


def _by_images(chats: Sequence[Chat]) -> list[list[int]]:
    """Row indices, grouped into chats with and without images; order kept inside a group."""
    groups: dict[bool, list[int]] = {}
    for row, chat in enumerate(chats):
        groups.setdefault(bool(chat.images), []).append(row)
    return list(groups.values())
