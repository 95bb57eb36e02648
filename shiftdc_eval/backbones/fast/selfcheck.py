"""A look at whether the fast engine computes what the plain path does, on the loaded weights and installed versions.

The facts in `refusal` say for which models the engine is exact; this compares logits before it is trusted with
a model on a GPU: two image prompts of unequal length, whole and on stored prefixes, and one decode step after each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor

from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.fast.engine import FastEngine
from shiftdc_eval.backbones.follower import Follower
from shiftdc_eval.backbones.generation import GenerationSettings

STEPS = 2
TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.5, torch.float16: 0.2}
"""Largest difference of a logit, in standard deviations of the logits: a wrong mask or position gives about 1."""


class TwoEngines(Protocol):
    """What is checked: a backbone."""

    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def fast(self) -> FastEngine: ...
    def follower(self, chats: Sequence[Chat]) -> Follower: ...


class Scores(LogitsProcessor):  # type: ignore[misc]
    """Keeps the logits of every row."""

    def __init__(self, count: int) -> None:
        self.rows: Sequence[int] = range(count)
        self.seen: list[list[Tensor]] = [[] for _ in range(count)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        for row, score in zip(self.rows, scores, strict=True):
            if row >= 0:
                self.seen[row].append(score.clone())
        return scores


def disagreement(backbone: TwoEngines) -> float:
    """Largest difference between the two engines' logits, in standard deviations of the logits."""
    generator = torch.Generator().manual_seed(0)
    images = [
        Image.fromarray(torch.randint(0, 256, (252, 336, 3), generator=generator, dtype=torch.uint8).numpy())
        for _ in range(2)
    ]
    chats = [
        Chat.ask("What is shown?", images[:1]),
        Chat.ask("Name three things that can be seen here, one on each line.", images[1:]),
    ]
    first = [chat.with_request("Describe the image in one sentence.") for chat in chats]
    whole = _difference(backbone, chats)
    with backbone.fast.sharing(chats):
        backbone.fast.generate(first, GenerationSettings(max_new_tokens=STEPS), seeds=["", ""], edits=None)
        return _worse(whole, _difference(backbone, chats))


def _difference(backbone: TwoEngines, chats: Sequence[Chat]) -> float:
    """Largest difference over the first tokens that the fast engine answers."""
    scores = Scores(len(chats))
    settings = GenerationSettings(max_new_tokens=STEPS)
    found = backbone.fast.generate(chats, settings, seeds=[""] * len(chats), edits=None, extra=[scores])
    plain = backbone.follower(chats)
    worst = 0.0
    for step in range(min(len(row) for row in scores.seen)):
        answered = torch.tensor([ids[:step] for _, ids in found], dtype=torch.long, device=backbone.device)
        wanted = plain.next_logits(answered).float()
        mine = torch.stack([row[step] for row in scores.seen])
        real = ~mine.isneginf()  # all but the tokens that an answer must not hold
        difference = (mine - wanted)[real].abs().max() / wanted[real].std()
        worst = _worse(worst, float(difference))
    return worst


def _worse(one: float, other: float) -> float:
    """The larger one; a NaN is never the smaller one."""
    return other if math.isnan(other) or other > one else one


def failure(backbone: TwoEngines) -> str | None:
    """What is wrong; None where the engines agree."""
    try:
        found = disagreement(backbone)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # an engine that cannot run two prompts is not used, whatever it stumbled over
        return f"the engine's self-check failed ({type(error).__name__}: {error})"
    finally:
        backbone.fast.release()
    allowed = TOLERANCE.get(backbone.dtype, 0.5)
    # not "greater than": a NaN must not pass
    if found <= allowed:
        return None
    return f"the engine's self-check found logits that differ by {found:.2g} standard deviations"
