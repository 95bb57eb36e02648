"""At which layer a refusal direction is added: chosen on held-out pairs, after Arditi et al.

Source: arXiv 2406.11717 (section 2.3, appendix C); andyrdt/refusal_direction 9d852fa, select_direction.py. A candidate
is the direction at the input of a decoder layer, last prompt token. Ablated everywhere, it should take refusals of
unsafe requests away and change answers to safe requests little; added at its layer, it should make the model refuse
safe requests. Theirs also searches the other tokens of the template, and names each model's refusal tokens by hand.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shiftdc_eval.backbones import Backbone, Chat, Generated, GenerationSettings
from shiftdc_eval.core.errors import ConfigError, ModelError
from shiftdc_eval.judges.keyword import keyword_judge
from shiftdc_eval.judges.verdict import Item
from shiftdc_eval.steering import SafetyDirection, Shift, ablate, edit_tokens

if TYPE_CHECKING:
    from shiftdc_eval.defenses.contrast import ContrastSet

KL_LIMIT = 0.1
"""Most that ablation may change next-token distributions of safe requests (mean KL divergence, nats)."""
INDUCE_LIMIT = 0.0
"""Least mean refusal score of safe requests to which the direction is added: refusing at even odds."""
LAYER_SHARE = 0.8
"""Candidates come from this first part of the layers."""
ANSWERED = 64
"""Unsafe requests whose answers show how the model begins a refusal."""
ANSWER_TOKENS = 24
OPENING_SHARE = 0.1
"""A token opens refusals if at least this share of them begins with it."""
FALLBACK = "I"
"""What a refusal begins with where the model refuses nothing: their choice for most models."""


@dataclass(frozen=True)
class LayerChoice:
    """A decoder layer and how it was found."""

    layer: int
    """Decoder layer at whose input the direction is added, 0-based, at least 1."""
    within_limits: bool
    """Whether the layer meets both limits of the published rule; if none does, the best of all is taken."""
    own_refusals: bool
    """Whether refusal tokens come from the model's own refusals; else `I` stands for them."""

    @property
    def note(self) -> str:
        """The choice in words, for a run record."""
        limits = "" if self.within_limits else "; no layer met the limits of the rule"
        tokens = (
            "" if self.own_refusals else f"; it refused nothing, refusals taken to begin with {FALLBACK!r}"
        )
        return (
            f"refusal direction at the input of layer {self.layer}, chosen on held-out pairs{limits}{tokens}"
        )


def choose_layer(
    backbone: Backbone,
    direction: SafetyDirection,
    fitted: ContrastSet,
    held_out: ContrastSet,
    *,
    batch_size: int = 8,
) -> LayerChoice:
    """The layer whose direction, when it is ablated, takes away most of the refusal of unsafe requests.

    Args:
        backbone: the model.
        direction: safe minus unsafe at the output of every layer; the input of layer l is the output of l - 1.
        fitted: pairs whose unsafe requests show how the model refuses.
        held_out: pairs that candidates are scored on.
        batch_size: prompts a forward pass.

    Raises:
        ConfigError: the model has too few layers.
    """
    count = len(backbone.layers)
    reached = set(range(1, int(count * LAYER_SHARE))) - backbone.skipped_without_image
    if not reached:
        raise ConfigError(f"{backbone.name} has {count} decoder layers: too few to choose from; give layers=")
    candidates = sorted(reached)
    opening, own = refusal_tokens(backbone, [pair.unsafe for pair in fitted.pairs][:ANSWERED])
    safe = [Chat.ask(pair.safe) for pair in held_out.pairs]
    unsafe = [Chat.ask(pair.unsafe) for pair in held_out.pairs]

    def logits(chats: Sequence[Chat], context: AbstractContextManager[object] | None = None) -> Tensor:
        with context or nullcontext():
            return next_logits(backbone, chats, batch_size)

    usual = logits(safe)
    scores: dict[int, tuple[bool, float]] = {}
    for layer in candidates:
        vector = direction.vectors[layer - 1]
        kl = divergence(usual, logits(safe, ablate(backbone.layers, vector)))
        added = edit_tokens(
            backbone.layers, {layer: Shift(-vector)}, slice(None), every_pass=True, site="input"
        )
        induced = float(refusal_score(logits(safe, added), opening).mean())
        left = float(refusal_score(logits(unsafe, ablate(backbone.layers, vector)), opening).mean())
        scores[layer] = (not (kl <= KL_LIMIT and induced >= INDUCE_LIMIT), left)
    best = min(candidates, key=lambda layer: scores[layer])
    return LayerChoice(best, within_limits=not scores[best][0], own_refusals=own)


def next_logits(backbone: Backbone, chats: Sequence[Chat], batch_size: int) -> Tensor:
    """Next-token logits after each prompt, `[batch, vocabulary]`, float64, on the CPU.

    Raises:
        ModelError: they are not finite.
    """
    last = [
        backbone.last_token_activations(chats[start : start + batch_size], [len(backbone.layers) - 1])[:, 0]
        for start in range(0, len(chats), batch_size)
    ]
    found = backbone.next_token_logits(torch.cat(last)).double().cpu()
    if not torch.isfinite(found.amax()):
        raise ModelError(
            f"the logits of {backbone.name} are not finite, so no layer can be chosen: "
            "load it with dtype=bfloat16 or float32"
        )
    return found


def refusals(
    backbone: Backbone, chats: Sequence[Chat], requests: Sequence[str]
) -> list[tuple[Generated, str | float | None]]:
    """How the model's greedy answers begin, and whether they are `refused` or `complied`; None: not told.

    A refusal is what the keyword list of the same authors finds (`keyword_refusal_direction`).
    """
    answers = backbone.generate(chats, GenerationSettings(max_new_tokens=ANSWER_TOKENS))
    items = [
        Item(id=str(row), request=request, response=answer.text)
        for row, (request, answer) in enumerate(zip(requests, answers, strict=True))
    ]
    verdicts = keyword_judge("refusal_direction").judge(items)
    return [(answer, verdict.value) for answer, verdict in zip(answers, verdicts, strict=True)]


def refusal_tokens(backbone: Backbone, requests: Sequence[str]) -> tuple[list[int], bool]:
    """Tokens that the model's refusals of these requests begin with, and whether it refused any."""
    found = refusals(backbone, [Chat.ask(request) for request in requests], requests)
    begun = Counter(answer.ids[0] for answer, value in found if value == "refused" and answer.ids)
    if not begun:
        return [backbone.tokenizer(FALLBACK, add_special_tokens=False)["input_ids"][0]], False
    least = OPENING_SHARE * begun.total()
    return sorted(token for token, times in begun.items() if times >= least), True


def refusal_score(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """Log-odds that the next token begins a refusal: `[batch]`.

    Args:
        logits: `[batch, vocabulary]`, next-token logits.
        tokens: ids that refusals begin with.
    """
    refusing = logits.double().softmax(-1)[:, list(tokens)].sum(-1)
    return torch.log(refusing + 1e-8) - torch.log(1 - refusing + 1e-8)


def divergence(usual: Tensor, changed: Tensor) -> float:
    """Mean Kullback-Leibler divergence of next-token distributions, in nats; logits are `[batch, vocabulary]`."""
    p, q = usual.double().softmax(-1), changed.double().softmax(-1)
    return float((p * (torch.log(p + 1e-6) - torch.log(q + 1e-6))).sum(-1).mean())
