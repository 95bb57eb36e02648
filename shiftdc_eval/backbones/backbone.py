"""The one face of a vision-language model."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.encoding import (
    ENCODING_ERRORS,
    Encoded,
    control_tokens,
    encode_chats,
    plain,
    prefill_kwargs,
    unexpanded,
)
from shiftdc_eval.backbones.families import (
    image_placeholders,
    layers_that_need_an_image,
    mend_attention,
)
from shiftdc_eval.backbones.fast.engine import FastEngine
from shiftdc_eval.backbones.fast.refusal import refusal, window
from shiftdc_eval.backbones.fast.selfcheck import failure
from shiftdc_eval.backbones.following import Follower
from shiftdc_eval.backbones.generation import Generated, GenerationSettings, cut, sampling_processors
from shiftdc_eval.backbones.layers import find_decoder_layers, reachable, source
from shiftdc_eval.errors import ConfigError, ModelError
from shiftdc_eval.steering import Edit, edit_last_token, record_last_token

PASS_TOKENS = 32_768
"""Tokens of prompts without images that go through one forward pass: more would only take memory."""
logger = logging.getLogger(__name__)
PROMPT_ROOM = 128
"""Tokens by which another prompt about a request may be longer than the request."""
EditBuilder = Callable[[list[int]], Mapping[int, Edit]]
"""Rows of a sub-batch (indices into the batch) -> layer index -> edit."""


class Backbone:
    """A loaded vision-language model: chats in, tokens out, decoder layers visible.

    Chats with and without images may be mixed in one call; they are run as separate sub-batches.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        revision: str,
        note: str = "",
        folder: str | None = None,
        engine: Literal["auto", "plain", "fast"] = "auto",
    ) -> None:
        self.model = model.eval()
        mend_attention(model)
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.name = name
        """Model id or folder as the user gave it."""
        self.revision = revision
        """Commit of the hub, or a hash of a local folder's weights."""
        self.note = note
        """A caveat that every result of this model carries."""
        self.folder = folder
        """Local folder of the model, where it has one."""
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if getattr(processor, "chat_template", None) is None:
            # some processors (Phi-4-multimodal's) lose the template that lies in the folder; the tokenizer has it
            processor.chat_template = getattr(self.tokenizer, "chat_template", None)
        self.layers = find_decoder_layers(model)
        self.skipped_without_image = layers_that_need_an_image(model.config)
        """Decoder layers that a prompt without images passes by (cross-attention layers)."""
        self.forward_passes = 0
        """Forward passes of whole prompts since loading (prefills), for tests and cost tables."""
        self.asked_engine: Literal["auto", "plain", "fast"] = "auto"
        """`auto` takes the fast engine where it is exact for this model; `plain` never takes it."""
        self.rows_at_once: int | None = None
        """See `limit_rows`."""
        self.choose_engine(engine)

    @property
    def fast_refusal(self) -> str | None:
        """Why the fast engine is not used; None where it is."""
        if self.asked_engine == "plain":
            return "engine=plain was asked for"
        return refusal(self.model) or (self._untrusted if self.asked_engine == "auto" else None)

    @cached_property
    def _untrusted(self) -> str | None:
        """What the fast engine's self-check found, made once, on GPUs: on the CPU it would cost whole seconds."""
        if self.device.type != "cuda":
            return None
        found = failure(self)
        if found:
            logger.warning("%s: going on with the plain engine: %s", self.name, found)
        return found

    def choose_engine(self, engine: Literal["auto", "plain", "fast"]) -> None:
        """Use another engine from now on.

        Raises:
            ConfigError: the fast engine is not exact for this model.
        """
        self.release()
        self.asked_engine = engine
        if engine == "fast" and (reason := self.fast_refusal):
            raise ConfigError(f"engine=fast cannot be used with {self.name}: {reason}; use engine=auto")

    @property
    def engine(self) -> Literal["plain", "fast"]:
        """The engine that answers: `plain` is transformers' own `generate`."""
        return "plain" if self.fast_refusal else "fast"

    @cached_property
    def fast(self) -> FastEngine:
        """The fast engine of this model; it takes no memory before its first answer."""
        return FastEngine(self)

    @contextmanager
    def sharing(self, chats: Sequence[Chat]) -> Iterator[None]:
        """Several prompts about these chats' images follow: keep what they share, where the engine can."""
        if self.engine == "plain":
            yield
            return
        with self.fast.sharing(chats):
            yield

    def limit_rows(self, rows: int) -> None:
        """Let the fast engine answer so many rows together at most; further rows take the places of finished ones."""
        self.rows_at_once = rows

    @property
    def refills(self) -> bool:
        """Whether rows beyond `rows_at_once` are worth handing over: places are filled again on a GPU."""
        return self.engine == "fast" and self.device.type == "cuda"

    def fitting_rows(self, chat: Chat, new_tokens: int) -> int | None:
        """Rows like this one that fit into a GPU's free memory, their answers and longer prompts about them included.

        None where that is not known: on a CPU, and for the plain engine.
        """
        if not self.refills:
            return None
        return self.fast.capacity(self.features([chat]).width + PROMPT_ROOM + new_tokens)

    def release(self) -> None:
        """Give back memory that is kept between calls."""
        if "fast" in vars(self):
            self.fast.release()

    @property
    def device(self) -> torch.device:
        """Device that inputs go to; parameters that are offloaded to CPU or disk have none of their own."""
        placed = (p.device for p in self.model.parameters() if p.device.type != "meta")
        return next(placed, torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Compute dtype."""
        dtype: torch.dtype = next(p.dtype for p in self.model.parameters() if p.is_floating_point())
        return dtype

    @property
    def architecture(self) -> str:
        """Class of the loaded model."""
        return type(self.model).__name__

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def template_sha256(self) -> str:
        """Hash of the chat template and of what it renders for a request: some templates print today's date."""
        template = getattr(self.processor, "chat_template", None) or getattr(
            self.tokenizer, "chat_template", None
        )
        probe = [{"role": "user", "content": [{"type": "text", "text": "probe"}]}]
        try:
            rendered = self.processor.apply_chat_template(probe, tokenize=False, add_generation_prompt=True)
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
        ):  # families whose prompts are not a template's
            rendered = ""
        return hashlib.sha256(json.dumps([template, str(rendered)], sort_keys=True).encode()).hexdigest()

    @property
    def attention(self) -> str:
        """The attention kernel in use."""
        return str(getattr(self.model.config, "_attn_implementation", None))

    @property
    def devices(self) -> list[torch.device]:
        """Every device that holds parameters, in order."""
        return sorted({p.device for p in self.model.parameters() if p.device.type != "meta"}, key=str)

    @property
    def contrast_file(self) -> Path | None:
        """Contrast set that comes in the model's folder; None for models that bring none."""
        path = Path(self.folder) / "contrast.jsonl" if self.folder else None
        return path if path and path.is_file() else None

    def encode(self, chats: Sequence[Chat]) -> Encoded:
        """Render, tokenize and left-pad chats that either all have images or all have none.

        Raises:
            ModelError: the model's processor cannot take these chats.
        """
        return self.features(chats).to(self.device)

    def features(self, chats: Sequence[Chat]) -> Encoded:
        """As `encode`, but on the CPU.

        Raises:
            ModelError: the model's processor cannot take these chats.
        """
        try:
            return encode_chats(self.processor, self.model.config.model_type, chats, self._control)
        except ENCODING_ERRORS as error:
            images = sorted({len(chat.images) for chat in chats})
            raise ModelError(
                f"the processor of {self.name} ({type(self.processor).__name__}) cannot encode chats with "
                f"{images} images: {error}"
            ) from error

    def rendered(self, chats: Sequence[Chat]) -> list[list[int]] | None:
        """Token ids of the chats' prompts before the processor makes room for images; None where unknown."""
        return unexpanded(self.processor, self.model.config.model_type, chats, self._control)

    @cached_property
    def _control(self) -> list[str]:
        return control_tokens(self.tokenizer, self.processor)

    def encode_bare(self, texts: Sequence[str]) -> Encoded:
        """Tokenize texts without the chat template, left-padded."""
        texts = [plain(text, self._control) for text in texts]
        features = self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        return Encoded({key: features[key] for key in ("input_ids", "attention_mask")}).to(self.device)

    @torch.inference_mode()
    def last_token_activations(
        self, chats: Sequence[Chat], only: Sequence[int] | None = None, *, bare: bool = False
    ) -> Tensor:
        """Activations of the last prompt token at the output of the decoder layers.

        Args:
            chats: any mix of chats with and without images.
            only: layer indices; all layers when None.
            bare: leave out the chat template and take the request's text alone (text-only chats).

        Returns:
            `[batch, layers, hidden]` on the model's device, in the model's dtype.
        """
        indices = list(range(len(self.layers)) if only is None else only)
        if not bare and self.engine == "fast" and self.fast.shares(chats):
            shared = self.fast.activations(chats, indices)
            if shared is not None:
                self.forward_passes += 1
                return shared
        rows: list[Tensor | None] = [None] * len(chats)
        for group in _by_images(chats):
            shown = [chats[row] for row in group]
            encoded = self.encode_bare([chat.request for chat in shown]) if bare else self.encode(shown)
            sources = [source(at, self._passed_by(bool(shown[0].images) and not bare)) for at in indices]
            with_image = bool(shown[0].images) and not bare
            parts = []
            for part in [encoded] if with_image else encoded.parts(PASS_TOKENS):
                with record_last_token(self.layers, part.width - 1, only=sorted(set(sources))) as seen:
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
                f"{self.architecture} shows no final norm: post_norm_last cannot be used with it"
            )
        with torch.inference_mode():
            normed: Tensor = norm(activations)
        return normed

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

    def _passed_by(self, with_image: bool) -> frozenset[int]:
        """Layers that a prompt does not run through."""
        return frozenset() if with_image else self.skipped_without_image

    def generate(
        self,
        chats: Sequence[Chat],
        settings: GenerationSettings,
        *,
        seeds: Sequence[str] | None = None,
        edit: EditBuilder | None = None,
        edit_decode: bool = False,
        processors: Callable[[Sequence[int], Encoded], Iterable[LogitsProcessor]] | None = None,
    ) -> list[Generated]:
        """Answer chats.

        Args:
            chats: any mix of chats with and without images.
            settings: decoding settings, the same for the whole batch.
            seeds: one string a chat that fixes its sampling; needed only when sampling.
            edit: gives the edits of the last prompt token's activation during prefill for a sub-batch.
            edit_decode: edit the newest token of every decode step too (needs a KV cache).
            processors: extra logits processors for a sub-batch, put before sampling.

        Returns:
            One answer a chat, in order.

        Raises:
            ModelError: a layer that was to be edited was not reached.
        """
        if settings.do_sample and seeds is None:
            raise ConfigError(
                "sampling needs one seed a request: pass seeds=[request.seed for request in requests]"
            )
        if edit_decode and not settings.use_cache:
            raise ConfigError(
                "steering every decode step (steer_decode) needs a KV cache; leave out use_cache=false"
            )
        seeds = seeds if seeds is not None else [str(row) for row in range(len(chats))]
        simple = processors is None and not edit_decode and settings.use_cache
        answers: dict[int, Generated] = {}
        for group in _by_images(chats):
            shown, seeded = [chats[row] for row in group], [seeds[row] for row in group]
            if simple and self.engine == "fast" and self._in_window(shown, settings):
                found = self._fast(shown, settings, seeded, group, edit)
            else:
                found = self._plain(shown, settings, seeded, group, edit, edit_decode, processors)
            answers.update(zip(group, found, strict=True))
        return [answers[row] for row in range(len(chats))]

    def _in_window(self, chats: Sequence[Chat], settings: GenerationSettings) -> bool:
        """Whether every token sees all tokens before it, which the fast engine takes for granted."""
        width = window(self.model)
        return width is None or self.features(chats).width + settings.max_new_tokens <= width

    def _fast(
        self,
        chats: Sequence[Chat],
        settings: GenerationSettings,
        seeds: Sequence[str],
        group: Sequence[int],
        edit: EditBuilder | None,
    ) -> list[Generated]:
        self.forward_passes += 1

        def edits(rows: list[int]) -> Mapping[int, Edit]:
            assert edit is not None
            return edit([group[row] for row in rows])

        rows = self.fast.generate(chats, settings, seeds=seeds, edits=edits if edit else None)
        return [self._finished(ids, length, settings) for length, ids in rows]

    @torch.inference_mode()
    def _plain(
        self,
        chats: Sequence[Chat],
        settings: GenerationSettings,
        seeds: Sequence[str],
        group: list[int],
        edit: EditBuilder | None,
        edit_decode: bool,
        processors: Callable[[Sequence[int], Encoded], Iterable[LogitsProcessor]] | None,
    ) -> list[Generated]:
        encoded = self.encode(chats)
        extra = LogitsProcessorList(processors(group, encoded) if processors else [])
        extra += sampling_processors(settings, seeds)
        edits = reachable(edit(group), self._passed_by(bool(chats[0].images))) if edit else {}
        position = -1 if edit_decode else encoded.width - 1
        every_pass = edit_decode or not settings.use_cache
        with edit_last_token(self.layers, edits, position, every_pass=every_pass) as made:
            sequences = self._decode(encoded, settings, extra)
        missed = [layer for layer, count in made.items() if not count]
        if missed:
            raise ModelError(f"decoder layers {missed} of {self.name} were not reached by the forward pass")
        return [
            self._finished(ids, length, settings)
            for length, ids in zip(encoded.lengths, sequences.tolist(), strict=True)
        ]

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
            suppress_tokens=self.placeholder_ids() or None,
            **({"tokenizer": self.tokenizer} if self._stop_strings else {}),
        )
        return output[:, encoded.width :]

    def _finished(self, ids: list[int], length: int, settings: GenerationSettings) -> Generated:
        ends = self._end_ids()
        stop = next((index + 1 for index, token in enumerate(ids) if token in ends), len(ids))
        text = self.tokenizer.decode(ids[:stop], skip_special_tokens=True)
        until = (*settings.until, *self._stop_strings)
        return Generated(cut(text, until), length, stop, tuple(ids[:stop]))

    @property
    def _stop_strings(self) -> list[str]:
        """Texts before which an answer of this model ends, beside its end token (MiniGPT-4: `###`)."""
        stop = self.model.generation_config.stop_strings or []
        return [stop] if isinstance(stop, str) else list(stop)

    def placeholder_ids(self) -> list[int]:
        """Ids that an answer must not hold: those that stand for images, and those the model rules out."""
        ruled_out = self.model.generation_config.suppress_tokens or []
        return sorted({*image_placeholders(self.model.config), *ruled_out})

    def _end_ids(self) -> set[int]:
        end = self.model.generation_config.eos_token_id
        if end is None:
            end = self.tokenizer.eos_token_id
        return set(end) if isinstance(end, list) else {end}


def _by_images(chats: Sequence[Chat]) -> list[list[int]]:
    """Row indices, grouped into chats with and without images; order kept inside a group."""
    groups: dict[bool, list[int]] = {}
    for row, chat in enumerate(chats):
        groups.setdefault(bool(chat.images), []).append(row)
    return list(groups.values())
