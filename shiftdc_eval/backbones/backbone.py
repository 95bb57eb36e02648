"""The one face of a vision-language model."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.families import (
    ENCODERS,
    encode_by_template,
    image_placeholders,
    layers_that_need_an_image,
    mend_attention,
)
from shiftdc_eval.backbones.generation import Generated, GenerationSettings, cut, sampling_processors
from shiftdc_eval.errors import ConfigError, ModelError
from shiftdc_eval.steering import Edit, edit_last_token, record_last_token

EditBuilder = Callable[[list[int]], Mapping[int, Edit]]
"""Rows of a sub-batch (indices into the batch) -> layer index -> edit."""


@dataclass(frozen=True)
class Encoded:
    """A left-padded batch on the model's device."""

    inputs: dict[str, Tensor]
    """What the model's forward takes."""

    @property
    def width(self) -> int:
        """Padded prompt length; the last prompt token of every row is at `width - 1`."""
        return int(self.inputs["input_ids"].shape[1])

    @property
    def lengths(self) -> list[int]:
        """Prompt tokens of each row, padding excluded."""
        return [int(length) for length in self.inputs["attention_mask"].sum(-1).tolist()]


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
        encode = ENCODERS.get(self.model.config.model_type, encode_by_template)
        try:
            features = encode(self.processor, chats)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, TemplateError) as error:
            images = sorted({len(chat.images) for chat in chats})
            raise ModelError(
                f"the processor of {self.name} ({type(self.processor).__name__}) cannot encode chats with "
                f"{images} images: {error}"
            ) from error
        return Encoded(
            {key: value.to(self.device) for key, value in features.items() if torch.is_tensor(value)}
        )

    def encode_bare(self, texts: Sequence[str]) -> Encoded:
        """Tokenize texts without the chat template, left-padded."""
        features = self.tokenizer(list(texts), return_tensors="pt", padding=True, padding_side="left")
        kept = {key: features[key].to(self.device) for key in ("input_ids", "attention_mask")}
        return Encoded(kept)

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
        rows: list[Tensor | None] = [None] * len(chats)
        for group in _by_images(chats):
            shown = [chats[row] for row in group]
            encoded = self.encode_bare([chat.request for chat in shown]) if bare else self.encode(shown)
            sources = [self._source(index, bool(shown[0].images) and not bare) for index in indices]
            with record_last_token(self.layers, encoded.width - 1, only=sorted(set(sources))) as seen:
                self.forward(encoded)
            stacked = torch.stack([seen[source].to(self.device) for source in sources], dim=1)
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
        kwargs = _prefill_kwargs(self.model, encoded)
        inputs = self.model.prepare_inputs_for_generation(
            encoded.inputs["input_ids"], is_first_iteration=True, use_cache=False, **kwargs
        )
        inputs.pop("logits_to_keep", None)
        self.model.base_model(**inputs)

    def _source(self, layer: int, with_image: bool) -> int:
        """The layer whose output is the residual stream after `layer`: itself, unless it is passed by."""
        while not with_image and layer in self.skipped_without_image and layer > 0:
            layer -= 1
        return layer

    def _reachable(self, edits: Mapping[int, Edit], with_image: bool) -> dict[int, Edit]:
        """The same edits at layers that this kind of prompt runs through, in their order."""
        reachable: dict[int, Edit] = {}
        for layer in sorted(edits):
            source = self._source(layer, with_image)
            earlier = reachable.get(source)
            reachable[source] = edits[layer] if earlier is None else _in_turn(earlier, edits[layer])
        return reachable

    @torch.inference_mode()
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
        answers: list[Generated | None] = [None] * len(chats)
        for group in _by_images(chats):
            encoded = self.encode([chats[row] for row in group])
            extra = LogitsProcessorList(processors(group, encoded) if processors else [])
            extra += sampling_processors(settings, [seeds[row] if seeds else str(row) for row in group])
            edits = self._reachable(edit(group), bool(chats[group[0]].images)) if edit else {}
            if edit_decode and not settings.use_cache:
                raise ConfigError(
                    "steering every decode step (steer_decode) needs a KV cache; leave out use_cache=false"
                )
            position = -1 if edit_decode else encoded.width - 1
            every_pass = edit_decode or not settings.use_cache
            with edit_last_token(self.layers, edits, position, every_pass=every_pass) as made:
                sequences = self._decode(encoded, settings, extra)
            missed = [layer for layer, count in made.items() if not count]
            if missed:
                raise ModelError(
                    f"decoder layers {missed} of {self.name} were not reached by the forward pass"
                )
            for row, generated in zip(group, self._finish(encoded, sequences, settings), strict=True):
                answers[row] = generated
        return [answer for answer in answers if answer is not None]

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
            suppress_tokens=self._placeholder_ids() or None,
            **({"tokenizer": self.tokenizer} if self._stop_strings else {}),
        )
        return output[:, encoded.width :]

    def _finish(self, encoded: Encoded, sequences: Tensor, settings: GenerationSettings) -> list[Generated]:
        ends = self._end_ids()
        answers = []
        for length, row in zip(encoded.lengths, sequences.tolist(), strict=True):
            stop = next((index + 1 for index, token in enumerate(row) if token in ends), len(row))
            text = self.tokenizer.decode(row[:stop], skip_special_tokens=True)
            until = (*settings.until, *self._stop_strings)
            answers.append(Generated(cut(text, until), length, stop, tuple(row[:stop])))
        return answers

    @property
    def _stop_strings(self) -> list[str]:
        """Texts before which an answer of this model ends, beside its end token (MiniGPT-4: `###`)."""
        stop = self.model.generation_config.stop_strings or []
        return [stop] if isinstance(stop, str) else list(stop)

    def _placeholder_ids(self) -> list[int]:
        """Ids that an answer must not hold: those that stand for images, and those the model rules out."""
        ruled_out = self.model.generation_config.suppress_tokens or []
        return sorted({*image_placeholders(self.model.config), *ruled_out})

    def _end_ids(self) -> set[int]:
        end = self.model.generation_config.eos_token_id
        if end is None:
            end = self.tokenizer.eos_token_id
        return set(end) if isinstance(end, list) else {end}


class Follower:
    """A prompt that is continued, with a KV cache, by tokens that are chosen elsewhere."""

    def __init__(self, model: Any, encoded: Encoded) -> None:
        self._model = model
        self._prompt = encoded.inputs["input_ids"]
        self._kwargs = _prefill_kwargs(model, encoded)
        self._first = True

    @torch.inference_mode()
    def next_logits(self, answered: Tensor) -> Tensor:
        """Logits of the next token, `[batch, vocabulary]`.

        Args:
            answered: all answer tokens so far, `[batch, tokens]`: none at the first call, one more each time.
        """
        ids = torch.cat([self._prompt, answered.to(self._prompt.device)], dim=1)
        inputs = self._model.prepare_inputs_for_generation(
            ids,
            next_sequence_length=None if self._first else 1,
            is_first_iteration=self._first,
            use_cache=True,
            logits_to_keep=1,
            **self._kwargs,
        )
        outputs = self._model(**inputs, return_dict=True)
        self._kwargs = self._model._update_model_kwargs_for_generation(
            outputs, self._kwargs, is_encoder_decoder=False
        )
        self._first = False
        logits: Tensor = outputs.logits[:, -1]
        return logits


def _prefill_kwargs(model: Any, encoded: Encoded) -> dict[str, Any]:
    """Everything but the token ids that a prefill takes, with the positions that `generate` would use.

    Positions are given explicitly because a model that infers them counts padding, and one with
    multimodal positions (Qwen2-VL and later) keeps the offset of the last batch as state, which another
    prompt run in between would change.
    """
    kwargs = {name: value for name, value in encoded.inputs.items() if name != "input_ids"}
    if "position_ids" in inspect.signature(model.forward).parameters:
        ids = encoded.inputs["input_ids"]
        kwargs["position_ids"] = model._prepare_position_ids_for_generation(ids, {**kwargs, "input_ids": ids})
    return kwargs


def _in_turn(first: Edit, second: Edit) -> Edit:
    return lambda activation: second(first(activation))


def find_decoder_layers(model: Any) -> list[nn.Module]:
    """The language model's decoder layers, found by structure.

    Raises:
        ModelError: the model does not show its decoder, or not as many layers as its config says.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(f"{type(model).__name__} does not show its decoder layers (no get_decoder().layers)")
    expected = getattr(model.config.get_text_config(), "num_hidden_layers", len(layers))
    if len(layers) != expected:
        raise ModelError(
            f"{type(model).__name__} has {len(layers)} decoder layers, its config says {expected}"
        )
    return list(layers)


def _by_images(chats: Sequence[Chat]) -> list[list[int]]:
    """Row indices, grouped into chats with and without images; order kept inside a group."""
    groups: dict[bool, list[int]] = {}
    for row, chat in enumerate(chats):
        groups.setdefault(bool(chat.images), []).append(row)
    return list(groups.values())
