"""How near a layer is to refusing: the cosine of its next-token logits with a set of refusal words.

`F_l = cos(head(norm(x_l)), r)` over the whole vocabulary, where `x_l` is the last prompt token at the output of layer
`l` and `r` has ones at the first token of every word (HiddenDetect, arXiv 2502.14744; leigest519/HiddenDetect@2fd161b,
code/test.py). Theirs norms the last layer twice, since the last entry of `hidden_states` is normed already; once here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from shiftdc_eval.backbones import Backbone, Chat
from shiftdc_eval.backbones.generation import not_finite
from shiftdc_eval.core.hashing import digest
from shiftdc_eval.defenses.base import Tools
from shiftdc_eval.defenses.contrast import SIDES, ContrastSet
from shiftdc_eval.defenses.prompts import table


def refusal_words() -> tuple[str, ...]:
    """The authors' words."""
    return tuple(table("refusal_words.yaml")["words"])


def word_ids(tokenizer: Any) -> list[int]:
    """First token of every word, sorted, each once: many words begin with the same piece."""
    encoded = (tokenizer.encode(word, add_special_tokens=False) for word in refusal_words())
    return sorted({ids[0] for ids in encoded if ids})


def cosines(backbone: Backbone, chats: Sequence[Chat]) -> Tensor:
    """`F_l` of each chat at every layer: `[chats, layers]`, float32, on the CPU.

    Raises:
        ItemError: logits that are not finite.
    """
    ids = word_ids(backbone.tokenizer)
    activations = backbone.last_token_activations(chats)
    found = []
    for layer in range(activations.shape[1]):  # [chats, vocabulary] at a time
        logits = backbone.next_token_logits(activations[:, layer])
        length = logits.norm(dim=-1) * math.sqrt(len(ids))
        found.append((logits[:, ids].sum(dim=-1) / length.clamp_min(1e-8)).cpu())
    values = torch.stack(found, dim=1)
    if not values.isfinite().all():
        raise not_finite(backbone.name, backbone.dtype)
    return values


@dataclass(frozen=True)
class ContrastCosines:
    """`F_l` of a contrast set's texts, each `[texts, layers]`: what a detector is fitted on."""

    fit_safe: Tensor
    fit_unsafe: Tensor
    held_out_safe: Tensor
    held_out_unsafe: Tensor
    contrast_sha256: str
    """Hash of the contrast set."""


def contrast_cosines(tools: Tools) -> ContrastCosines:
    """How near every layer is to refusing the contrast set's texts: from the cache, else measured."""

    def measured(pairs: ContrastSet, size: int) -> Tensor:
        chats = [Chat.ask(text) for side in SIDES for text in pairs.prompts(side)]
        starts = tqdm(range(0, len(chats), size), desc="refusal words", unit="batch", leave=False)
        return torch.cat([cosines(tools.backbone, chats[at : at + size]) for at in starts])

    kind = f"refusal_cosines-{digest(refusal_words())[:16]}"
    fit, held_out = (tools.direction.fitted(kind, measured, held_out=part) for part in (False, True))
    # a pair has as many texts on either side, the safe ones first
    (safe, unsafe), (held_out_safe, held_out_unsafe) = fit.vectors.chunk(2), held_out.vectors.chunk(2)
    contrast = fit.contrast_sha256.rpartition("-")[2]
    return ContrastCosines(safe, unsafe, held_out_safe, held_out_unsafe, contrast)


def ids_sha256(backbone: Backbone) -> str:
    """Hash of the token ids that stand for the words in this model's vocabulary."""
    return digest(word_ids(backbone.tokenizer))
