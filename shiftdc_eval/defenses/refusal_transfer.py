"""The vector that carries the refusal of harmful texts over to pictures, with layer and token chosen by its effect.

Source: Xiao et al. 2026 (SRT), "raw direction"; text alone, their code was not at hand. `v = mean over HT - mean over
CM` at the output of a layer, at one of the template's tokens after the request. HT: harmful texts with a plain image;
CM: the harm is in the picture and the model answers; B: benign pictures. Layer and token have the largest
`G = [E_CM R(v) - E_CM R(0)] - [E_B R(v) - E_B R(0)]`, where R is the log-odds that the next token begins a refusal and
`v` is added at every token. Theirs are items of two benchmarks that they report; ours come from the contrast set: its
unsafe requests with a white image (HT), the same drawn as FigStep draws them (CM), and the safe requests drawn so (B).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessor

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings
from shiftdc_eval.backbones.encoding import Encoded
from shiftdc_eval.core.errors import ConfigError, DirectionError
from shiftdc_eval.defenses.contrast import ContrastSet
from shiftdc_eval.defenses.refusal_layer import (
    ANSWERED,
    next_logits,
    refusal_score,
    refusal_tokens,
    refusals,
)
from shiftdc_eval.steering import Shift, edit_tokens, record_last_token
from shiftdc_eval.tasks.figstep.files import PROMPT
from shiftdc_eval.tasks.figstep.render import SIZE, render_whole
from shiftdc_eval.tasks.fonts import FREE_MONO_BOLD, FontName, described_font, find_font

FONT = FontName(FREE_MONO_BOLD.files, FREE_MONO_BOLD.package, "DejaVuSansMono-Bold.ttf")
"""FigStep's font; where it is not installed one of matplotlib's of the same width, since nothing is compared here."""
ENDINGS = ("word", "7", "a word.", 'a "word"?', "word\n")
"""Ends of requests that no template's tokens depend on."""

Shown = Callable[[str], Chat]


@dataclass(frozen=True)
class Transfer:
    """A vector, its place and how they were found."""

    vector: Tensor
    """`[hidden]`, float32."""
    layer: int
    """Decoder layer at whose output it is taken and added, 0-based."""
    token: int
    """Template token after the request that it is taken at; -1 is the last."""
    gain: float
    """G: how much more it raises the refusal score of CM than that of B."""
    answered: int
    """Drawn harmful requests that the model answers: CM."""
    harmful: int
    """Drawn harmful requests."""
    scored: tuple[int, int]
    """Members of CM and of B over which G is the mean."""
    opening: tuple[str, ...]
    """Tokens that refusals begin with."""
    own_refusals: bool
    """Whether these come from the model's own refusals."""
    font: str
    """What the requests were drawn with."""

    @property
    def note(self) -> str:
        """The choice in words, for a run record."""
        words = ", ".join(map(repr, self.opening))
        begins = (
            f"refusals begin with {words}"
            if self.own_refusals
            else f"it refused nothing, {words} stands for it"
        )
        return (
            f"vector of layer {self.layer}, token {self.token}, chosen by G={self.gain:.3f} on {self.scored[0]} harmful"
            f" and {self.scored[1]} benign pictures of the fit part; {self.answered} of {self.harmful} harmful ones "
            f"were answered; {begins}; drawn with {self.font}"
        )


def explicit(request: str) -> Chat:
    """A request in words with a plain image of the size of the drawn ones."""
    return Chat.ask(request, [Image.new("RGB", SIZE, "white")])


def drawn_with(font: Path) -> Shown:
    """Requests as pictures with FigStep's innocuous prompt."""
    return lambda request: Chat.ask(PROMPT, [render_whole(request, font)])


def fit_transfer(
    backbone: Backbone, fitted: ContrastSet, *, layers: Sequence[int], scored: int, batch_size: int = 8
) -> Transfer:
    """The vector with the largest G.

    Args:
        backbone: the model.
        fitted: pairs of the contrast set that are not held out.
        layers: candidates.
        scored: most members of CM, and of B, over which G is the mean.
        batch_size: prompts a forward pass.

    Raises:
        ConfigError: no candidate is left.
        DirectionError: the model answers none of the drawn harmful requests.
        DataError: `SHIFTDC_FONT` names no font.
    """
    if not layers:
        raise ConfigError(f"srt_raw has no candidate layer on {backbone.name}; give other layers=")
    font = find_font(FONT)
    drawn = drawn_with(font)
    pairs = fitted.spread()
    harmful, benign = [pair.unsafe for pair in pairs], [pair.safe for pair in pairs][:scored]
    opening, own = refusal_tokens(backbone, harmful[:ANSWERED])
    answered = [
        request
        for batch in _batches(harmful, batch_size)
        for request, (_, value) in zip(
            batch, refusals(backbone, [drawn(one) for one in batch], batch), strict=True
        )
        if value == "complied"
    ]
    if not answered:
        raise DirectionError(
            f"{backbone.name} answers none of {len(harmful)} harmful requests that are drawn as pictures, so there is "
            "nothing to carry refusal over to: srt_raw has no direction for it"
        )
    tokens = template_tokens(backbone)
    vectors = (
        _mean(backbone, harmful, explicit, tokens, batch_size)
        - _mean(backbone, answered, drawn, tokens, batch_size)
    ).float()
    sides = [[drawn(one) for one in side] for side in (answered[:scored], benign)]

    def scores(vector: Tensor | None, layer: int = 0) -> float:
        """Mean refusal score of CM minus that of B."""
        edits = {} if vector is None else {layer: Shift(vector)}
        with edit_tokens(backbone.layers, edits, slice(None), every_pass=True):
            found = [refusal_score(next_logits(backbone, side, batch_size), opening).mean() for side in sides]
        return float(found[0] - found[1])

    usual = scores(None)
    places = [(layer, token) for layer in layers for token in range(-1, -tokens - 1, -1)]
    gains = {
        (layer, token): scores(vectors[layer, token], layer) - usual
        for layer, token in tqdm(places, desc="srt_raw: layer and token", leave=False)
    }
    layer, token = max(places, key=lambda place: gains[place])
    return Transfer(
        vectors[layer, token],
        layer,
        token,
        gains[layer, token],
        answered=len(answered),
        harmful=len(harmful),
        scored=(len(sides[0]), len(sides[1])),
        opening=tuple(backbone.tokenizer.decode([one]) for one in opening),
        own_refusals=own,
        font=described_font(font, FREE_MONO_BOLD),
    )


def template_tokens(backbone: Backbone) -> int:
    """Number of the chat template's tokens after a request: those that prompts with other endings share; at least 1."""
    ids: list[Tensor] = []

    def look(_rows: Sequence[int], encoded: Encoded) -> list[LogitsProcessor]:
        ids.append(encoded.inputs["input_ids"])
        return []

    backbone.generate(
        [explicit(end) for end in ENDINGS], GenerationSettings(max_new_tokens=1), processors=look
    )
    same = (ids[0] == ids[0][0]).all(0).flip(0)
    return max(1, int(same.long().cumprod(0).sum()))


def _mean(backbone: Backbone, requests: Sequence[str], shown: Shown, tokens: int, batch_size: int) -> Tensor:
    """Mean activations at the last `tokens` prompt tokens: `[layers, tokens, hidden]`, float64, on the CPU."""
    count = len(backbone.layers)
    total = torch.zeros(count, tokens, backbone.hidden_size, dtype=torch.float64)
    for batch in _batches(requests, batch_size):
        with record_last_token(backbone.layers, slice(-tokens, None)) as seen:
            backbone.last_token_activations([shown(request) for request in batch], [count - 1])
        total += torch.stack([seen[layer].double().sum(0).cpu() for layer in range(count)])
    return total / len(requests)


def _batches(requests: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(requests), size):
        yield requests[start : start + size]
