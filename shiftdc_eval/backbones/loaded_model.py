"""A loaded model with its processor, and the encoding of chats for it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from shiftdc_eval.backbones import machine
from shiftdc_eval.backbones.begun import separator
from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.encoding import (
    ENCODING_ERRORS,
    Encoded,
    control_tokens,
    encode_chats,
    plain,
    template_problem,
)
from shiftdc_eval.backbones.families import (
    ENCODERS,
    image_placeholders,
    layers_that_need_an_image,
    mend_attention,
)
from shiftdc_eval.backbones.generation import Generated, GenerationSettings, cut
from shiftdc_eval.backbones.layers import find_decoder_layers
from shiftdc_eval.core.errors import ItemError, ModelError


class LoadedModel:
    """Model and processor.

    Args:
        model: of transformers, or one of `native`.
        processor: its processor, with a tokenizer.
        name: model id or folder as the user gave it.
        revision: commit of the hub, or a hash of a local folder's files.
        note: a caveat that is recorded with every result of this model.
        folder: local folder of the model, where it has one.

    Raises:
        ModelError: the decoder layers cannot be found, or the chat template does not render what is asked.
    """

    def __init__(
        self, model: Any, processor: Any, *, name: str, revision: str, note: str, folder: str | None
    ) -> None:
        self.model = model.eval()
        mend_attention(model)
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.name = name
        self.revision = revision
        self.note = note
        self.folder = folder
        self.engine_version = ""
        """Distribution and version of the engine; empty for transformers, whose version is recorded anyway."""
        self.edits_made: Counter[int] = Counter()
        """Decoder layer -> requests in which it was edited, where the engine counts."""
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        if getattr(processor, "chat_template", None) is None:
            # some processors (Phi-4-multimodal's) lose the template that lies in the folder; the tokenizer has it
            processor.chat_template = getattr(self.tokenizer, "chat_template", None)
        if problem := template_problem(processor, model.config.model_type):
            raise ModelError(f"{name}: {problem}; give the model a template for messages of text and images")
        self.layers = find_decoder_layers(model)
        self.skipped_without_image = layers_that_need_an_image(model.config)
        """Decoder layers that a prompt without images skips (cross-attention layers)."""
        self._ending_in: dict[str, set[int]] = {}
        """Text -> tokens that end in it."""

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
    def context(self) -> int | None:
        """Tokens of the longest prompt that the model was made for; None where its configuration does not say."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def template_sha256(self) -> str:
        """Hash of the chat template and of what it renders for a request: some templates print today's date."""
        template = getattr(self.processor, "chat_template", None) or getattr(
            self.tokenizer, "chat_template", None
        )
        probe = [{"role": "user", "content": [{"type": "text", "text": "probe"}]}]
        try:
            rendered = self.processor.apply_chat_template(probe, tokenize=False, add_generation_prompt=True)
        except (ValueError, TypeError, KeyError, AttributeError):
            rendered = ""  # of families whose prompts are not a template's
        return hashlib.sha256(json.dumps([template, str(rendered)], sort_keys=True).encode()).hexdigest()

    @property
    def attention(self) -> str:
        """The attention kernel in use."""
        return str(getattr(self.model.config, "_attn_implementation", None))

    @cached_property
    def placements(self) -> list[torch.device]:
        """Every place of parameters, `meta` (offloaded) included; looked up once, as that takes milliseconds."""
        return sorted({parameter.device for parameter in self.model.parameters()}, key=str)

    @property
    def devices(self) -> list[torch.device]:
        """Every device that holds parameters, in order."""
        return [device for device in self.placements if device.type != "meta"]

    @property
    def hardware(self) -> str:
        """The processor or the accelerators that hold the model, in words."""
        return machine.hardware(self.devices)

    @property
    def contrast_file(self) -> Path | None:
        """Contrast set that comes in the model's folder; None for models that bring none."""
        path = Path(self.folder) / "contrast.jsonl" if self.folder else None
        return path if path and path.is_file() else None

    @cached_property
    def _system_problem(self) -> str:
        return template_problem(self.processor, self.model.config.model_type, system=True)

    def check_system_prompt(self) -> None:
        """Make sure that a system prompt reaches the model.

        Raises:
            ModelError: its chat template drops it or prints it wrongly.
        """
        if self._system_problem:
            raise ModelError(
                f"{self.name}: {self._system_problem}; leave the system prompt out, or put its text into the request"
            )

    def check_begun(self, chats: Sequence[Chat]) -> None:
        """Make sure that the beginnings of the chats' answers reach the model.

        Raises:
            ModelError: its chat template has no place for them.
        """
        if self.model.config.model_type not in ENCODERS and any(chat.begun for chat in chats):
            try:
                separator(self.processor)
            except ModelError as error:
                raise ModelError(f"{self.name}: {error}") from error

    def encode(self, chats: Sequence[Chat]) -> Encoded:
        """Render, tokenize and left-pad chats that either all have images or all have none.

        Raises:
            ItemError: the model's processor cannot take these chats.
        """
        return self.features(chats).to(self.device)

    def features(self, chats: Sequence[Chat]) -> Encoded:
        """As `encode`, but on the CPU.

        Raises:
            ItemError: the model's processor cannot take these chats.
            ModelError: the chat template cannot render their system prompt, or the beginnings of their answers.
        """
        if any(turn.role == "system" for chat in chats for turn in chat.turns):
            self.check_system_prompt()
        self.check_begun(chats)
        try:
            return encode_chats(self.processor, self.model.config.model_type, chats, self._control)
        except ENCODING_ERRORS as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            sizes = ["{} x {}".format(*image.size) for chat in chats for image in chat.images]
            shown = f"images of {', '.join(sizes)} pixels" if sizes else "no image"
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ItemError(
                "its processor refuses it",
                f"the processor of {self.name} ({type(self.processor).__name__}) cannot encode "
                f"{'a chat' if len(chats) == 1 else f'{len(chats)} chats'} with {shown}: {said}",
            ) from error

    @cached_property
    def _control(self) -> list[str]:
        return control_tokens(self.tokenizer, self.processor)

    def encode_bare(self, texts: Sequence[str]) -> Encoded:
        """Tokenize texts without the chat template, left-padded."""
        texts = [plain(text, self._control) for text in texts]
        features = self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        return Encoded({key: features[key] for key in ("input_ids", "attention_mask")}).to(self.device)

    @property
    def stop_strings(self) -> list[str]:
        """Texts before which an answer of this model ends, beside its end token (MiniGPT-4: `###`)."""
        stop = self.model.generation_config.stop_strings or []
        return [stop] if isinstance(stop, str) else list(stop)

    def placeholder_ids(self) -> list[int]:
        """Ids that an answer must not hold: those that stand for images, and those the model rules out."""
        ruled_out = self.model.generation_config.suppress_tokens or []
        return sorted({*image_placeholders(self.model.config), *ruled_out})

    def finished(
        self, ids: Sequence[int], length: int, settings: GenerationSettings, begun: str = ""
    ) -> Generated:
        """An answer up to its end token, from its ids and the length of its prompt.

        Args:
            begun: what stands in front of the ids; part of the text, never cut.
        """
        ends = self.ends(settings)
        stop = next((at + 1 for at, token in enumerate(ids) if token in ends), len(ids))
        # decoded together: some tokenizers leave out the blank in front of a text
        before = self.tokenizer(begun, add_special_tokens=False)["input_ids"] if begun else []
        text = self.tokenizer.decode([*before, *ids[:stop]], skip_special_tokens=True)
        said = text[len(self.tokenizer.decode(before, skip_special_tokens=True)) :] if begun else text
        shown = cut(said, (*settings.until, *self.stop_strings))
        ended = shown != said or not self.end_ids().isdisjoint(ids[:stop])
        return Generated(begun + shown, length, stop, tuple(ids[:stop]), ended)

    def ends(self, settings: GenerationSettings) -> set[int]:
        """Ids that end an answer at these settings."""
        if not (text := settings.stop_after):
            return self.end_ids()
        if text not in self._ending_in:
            words = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))])
            self._ending_in[text] = {token for token, word in enumerate(words) if word.endswith(text)}
        return self.end_ids() | self._ending_in[text]

    def end_ids(self) -> set[int]:
        """Ids that end an answer."""
        end = self.model.generation_config.eos_token_id
        if end is None:
            end = self.tokenizer.eos_token_id
        return set(end) if isinstance(end, list) else {end}
