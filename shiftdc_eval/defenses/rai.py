"""RAI, reconstructed: push image tokens further along the risk words that they resemble (arXiv 2602.03402).

At the output of decoder layer 0, in prefill, `h <- h + strength * sum_k cos(h, u_k) u_k / |u_k|` over the prototypes
with `cos(h, u_k) > tau`, for each token of an image; `u_k` is the mean input embedding of a word's tokens. Text and
generated tokens are left alone. Written from third parties' accounts, no authors' code: which words the paper takes
and its tau are open, the words in `rai_words.yaml` are ours. The sum has about the length of a cosine where
activations may be far longer, so each answer says how far its image tokens were moved.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from shiftdc_eval.backbones import Backbone, GenerationSettings
from shiftdc_eval.backbones.interface import Capability
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools, steered
from shiftdc_eval.defenses.none import images_only
from shiftdc_eval.defenses.prompts import table
from shiftdc_eval.steering import PrototypePush, Scope

LAYER = 0
WORDS = "rai_words.yaml"
SIZES = (0.001, 0.01, 0.1, 1.0)
"""Limits of what a note says about the length of an edit, relative to the activation."""
logger = logging.getLogger(__name__)


class Rai(Settings):
    """Risk awareness injection; requests without an image are answered undefended."""

    name: ClassVar[str] = "rai"
    source: ClassVar[str] = "reconstruction of arXiv 2602.03402: its words and tau are open, ours stand in"
    status = "reconstruction"
    extra_cost: ClassVar[str] = "none"
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate", "edit_image"})

    strength: float = Field(default=1.0, allow_inf_nan=False)
    """Factor of the injected sum; 1 is the paper's rule, 0 changes nothing."""
    tau: float = Field(default=0.15, ge=-1, le=1)
    """Cosine above which a prototype counts; the paper's value is open, 0.15 is that of an account's sketch."""
    k: int = Field(default=9, ge=1, le=12)
    """Number of prototypes: the first so many words of the list."""

    @property
    def words(self) -> list[str]:
        """The prototypes."""
        return list(table(WORDS)["words"])[: self.k]

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """All settings, and the words with the version of their list."""
        facts = table(WORDS)
        words = f"{facts['source']}, version {facts['version']}: {', '.join(self.words)}"
        return {**super().resolved(backbone), "words": words}

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Answers with risk words injected into the image tokens."""
        return images_only(tools, requests, settings, self._injected)

    def _injected(
        self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings
    ) -> list[Answer]:
        push = PrototypePush(tools.backbone.word_embeddings(self.words), self.tau, self.strength)
        made: list[dict[str, Any]] = []

        def measured(activation: Tensor) -> Tensor:
            edited = push(activation)
            made.append(_size(push, activation, edited))
            return edited

        scope = Scope(positions="image")
        answers = steered(tools, requests, settings, edit=lambda _rows: {LAYER: measured}, scope=scope)
        rows = made[: len(requests)]  # of the first pass; without a KV cache every pass repeats the edit
        self._tell(rows)
        return [answer.with_extra(_note(row), **row) for answer, row in zip(answers, rows, strict=True)]

    def _tell(self, rows: Sequence[dict[str, Any]]) -> None:
        if self in _TOLD:
            return
        _TOLD.add(self)
        edited, tokens = (sum(row[name] for row in rows) for name in ("edited_tokens", "image_tokens"))
        ratio = sum(row["edit_ratio"] * row["edited_tokens"] for row in rows) / max(edited, 1)
        logger.warning(
            "rai: strength=%g tau=%g edits %d of the first %d image tokens, by %.3g of their length on average",
            *(self.strength, self.tau, edited, tokens, ratio),
        )


_TOLD: set[Rai] = set()
"""Settings whose first edit was told in this process."""


def _size(push: PrototypePush, before: Tensor, after: Tensor) -> dict[str, Any]:
    """How large the edit of one image's tokens is, as it arrives in the model's dtype."""
    length = before.float().norm(dim=-1)
    moved = (after.float() - before.float()).norm(dim=-1)
    ratio = (moved / length)[moved > 0]
    return {
        "image_tokens": len(before),
        "edited_tokens": len(ratio),
        "edit_ratio": float(ratio.mean()) if len(ratio) else 0.0,
        "largest_cosine": float(push.cosines(before).max()) if len(before) else 0.0,
    }


def _note(size: dict[str, Any]) -> str:
    if not size["edited_tokens"]:
        return "rai: no image token edited"
    limit = next((limit for limit in SIZES if size["edit_ratio"] < limit), None)
    if limit is None:
        return "rai: edited image tokens moved by their own length or more"
    return f"rai: edited image tokens moved by less than {limit:.1%} of their length"
