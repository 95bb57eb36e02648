"""A transformers model run one prompt at a time: no batch, no padding, no cache, nothing of the package.

Every answer token comes from a forward pass over the whole text so far. `Edit` says what changes in the
residual stream of such a pass and where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

Site = Literal["input", "output"]
Positions = Literal["all", "prompt", "last", "last and answer", "last but one"]


@dataclass(frozen=True)
class Prompt:
    """One user turn, images first."""

    text: str
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Edit:
    """A change of the residual stream where it enters or leaves one decoder layer."""

    layer: int
    change: Callable[[Tensor], Tensor]
    """`[positions, hidden]` -> the same shape."""
    site: Site = "output"
    positions: Positions = "last"


@dataclass(frozen=True)
class Pass:
    """What one forward pass over a prompt shows."""

    logits: Tensor
    """`[vocabulary]`, after the last token."""
    stream: Tensor
    """`[layers + 1, hidden]`, last prompt token: row l enters layer l, row l + 1 leaves it; edits included."""

    @property
    def outputs(self) -> Tensor:
        """`[layers, hidden]`: what leaves each layer."""
        return self.stream[1:]

    @property
    def inputs(self) -> Tensor:
        """`[layers, hidden]`: what enters each layer."""
        return self.stream[:-1]


@dataclass(frozen=True)
class Answered:
    """A greedy answer."""

    text: str
    stream: Tensor
    """`Pass.stream` of the pass over the prompt that was answered."""
    barred: int
    """Steps at which a forbidden token would have won."""


Inputs = Mapping[str, Tensor]
Side = tuple[Inputs, Sequence[Edit]]


def span(positions: Positions, prompt: int, width: int) -> slice:
    """The positions of a text of `width` tokens whose first `prompt` tokens are the prompt."""
    spans: dict[Positions, slice] = {
        "all": slice(0, width),
        "prompt": slice(0, prompt),
        "last": slice(prompt - 1, prompt),
        "last and answer": slice(prompt - 1, width),
        "last but one": slice(prompt - 2, prompt - 1),
    }
    return spans[positions]


class PlainModel:
    """A model and its processor in float32 on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        decoder = self.model.get_decoder()
        self.layers: list[torch.nn.Module] = list(decoder.layers)
        self.norm: torch.nn.Module = decoder.norm
        self._said: dict[tuple[object, ...], str] = {}

    @cached_property
    def forbidden(self) -> list[int]:
        """Tokens that stand for images or videos: no answer may hold them."""
        names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
        found = {getattr(self.model.config, name, None) for name in names}
        return sorted(token for token in found if isinstance(token, int))

    def chat(self, prompt: Prompt) -> Inputs:
        """The prompt in the model's chat template, ready for its answer."""
        content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in prompt.images]
        messages = [{"role": "user", "content": [*content, {"type": "text", "text": prompt.text}]}]
        encoded: Inputs = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        return encoded

    def bare(self, text: str) -> Inputs:
        """The text as the tokenizer takes it, without any template."""
        encoded: Inputs = self.processor.tokenizer(text, return_tensors="pt")
        return {name: value for name, value in encoded.items() if name in ("input_ids", "attention_mask")}

    @torch.inference_mode()
    def run(self, inputs: Inputs, edits: Sequence[Edit] = (), prompt: int | None = None) -> Pass:
        """One pass over a text whose first `prompt` tokens (all of them when None) are the prompt."""
        width = inputs["input_ids"].shape[1]
        prompt = width if prompt is None else prompt
        entering: list[Tensor] = []
        with self._hooked(edits, prompt, width, entering):
            logits = self.model(**inputs, use_cache=False).logits[0, -1]
        return Pass(logits, torch.stack(entering))

    @contextmanager
    def _hooked(
        self, edits: Sequence[Edit], prompt: int, width: int, entering: list[Tensor]
    ) -> Iterator[None]:
        def changed(hidden: Tensor, edit: Edit) -> Tensor:
            hidden = hidden.clone()
            where = span(edit.positions, prompt, width)
            hidden[0, where] = edit.change(hidden[0, where])
            return hidden

        def before(edit: Edit) -> Any:
            return lambda _module, args: (changed(args[0], edit), *args[1:])

        def after(edit: Edit) -> Any:
            return lambda _module, _args, output: changed(output, edit)

        def seen(_module: Any, args: tuple[Tensor, ...]) -> None:
            entering.append(args[0][0, prompt - 1].clone())

        handles = [
            self.layers[edit.layer].register_forward_pre_hook(before(edit))
            if edit.site == "input"
            else self.layers[edit.layer].register_forward_hook(after(edit))
            for edit in edits
        ]
        handles += [module.register_forward_pre_hook(seen) for module in [*self.layers, self.norm]]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def answer(
        self,
        sides: Sequence[Side],
        tokens: int,
        mix: Callable[[list[Tensor]], Tensor] = lambda logits: logits[0],
    ) -> Answered:
        """The greedy answer to one prompt, or to several whose logits are mixed at every step."""
        end = self.model.generation_config.eos_token_id
        ends = set(end) if isinstance(end, list) else {end}
        ids: list[int] = []
        stream: Tensor | None = None
        barred = 0
        while len(ids) < tokens and not (ids and ids[-1] in ends):
            passes = [
                self.run(longer(inputs, ids), edits, inputs["input_ids"].shape[1]) for inputs, edits in sides
            ]
            stream = passes[0].stream if stream is None else stream
            scores = mix([one.logits for one in passes]).clone()
            barred += int(scores.argmax()) in self.forbidden
            scores[self.forbidden] = -torch.inf
            ids.append(int(scores.argmax()))
        assert stream is not None
        return Answered(self.processor.tokenizer.decode(ids, skip_special_tokens=True), stream, barred)

    def say(self, prompt: Prompt, tokens: int) -> str:
        """The undefended greedy answer; the same question is asked once."""
        key = (prompt.text, *(image.size + (image.tobytes(),) for image in prompt.images), tokens)
        if key not in self._said:
            self._said[key] = self.answer([(self.chat(prompt), ())], tokens).text
        return self._said[key]


def longer(inputs: Inputs, ids: Sequence[int]) -> Inputs:
    """The inputs with answer tokens behind the prompt."""
    more = torch.tensor([list(ids)], dtype=torch.long)
    ends = {
        "input_ids": more,
        "attention_mask": torch.ones_like(more),
        "mm_token_type_ids": torch.zeros_like(more),
    }
    return {
        name: torch.cat([value, ends[name]], dim=1) if name in ends else value
        for name, value in inputs.items()
    }
