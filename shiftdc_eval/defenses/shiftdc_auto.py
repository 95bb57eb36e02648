"""`layers=auto` of ShiftDC: layer range and strength chosen on the contrast set's held-out pairs, never on a benchmark.

Both requests of a pair are drawn as FigStep draws them and asked with its innocuous prompt. A candidate is a range that
ends at the last layer, as in the paper's ablation, and a strength. The one that is taken raises the log-odds that the
answer begins with a refusal most for unsafe pictures against safe ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from shiftdc_eval.backbones import Backbone, Chat
from shiftdc_eval.backbones.interface import EditBuilder
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.defenses.contrast import ContrastSet
from shiftdc_eval.defenses.refusal_layer import ANSWERED, refusal_score, refusal_tokens
from shiftdc_eval.defenses.refusal_transfer import FONT, drawn_with
from shiftdc_eval.tasks.fonts import FREE_MONO_BOLD, described_font, find_font

PAIRS = 16
"""Most held-out pairs that are drawn."""
STARTS = (0.5, 0.25, 0.375, 0.625, 0.75)
"""First layers of the candidates, as shares of the depth; on a tie the earlier entry is taken, the default first."""
STRENGTHS = (1.0, 0.5, 2.0)

Edits = Callable[[str, float, Sequence[Chat]], EditBuilder]
"""Layer range, strength and chats -> the edits that ShiftDC makes."""


@dataclass(frozen=True)
class Calibration:
    """A layer range and a strength, and how they were found."""

    layers: str
    alpha: float
    gain: float
    """Rise of the mean refusal score of unsafe pictures minus that of safe ones, in nats."""
    usual: float
    """The gain of the default range and strength."""
    pictures: int
    own_refusals: bool
    """Whether refusal tokens come from the model's own refusals; else `I` stands for them."""
    font: str


def ranges(count: int) -> list[str]:
    """Candidate layer ranges of a model with so many layers."""
    return list(dict.fromkeys(f"{int(count * share)}-{count - 1}" for share in STARTS))


def choose(
    backbone: Backbone,
    edits: Edits,
    fitted: ContrastSet,
    held_out: ContrastSet,
    *,
    alpha: float | None = None,
    batch_size: int = 8,
) -> Calibration:
    """The candidate with the largest gain.

    Args:
        backbone: the model.
        edits: what ShiftDC does to chats at a candidate.
        fitted: pairs whose unsafe requests show how the model refuses.
        held_out: pairs that are drawn.
        alpha: the strength, where it is given.
        batch_size: prompts a forward pass.

    Raises:
        ModelError: logits that are not finite.
    """
    font = find_font(FONT)
    drawn = drawn_with(font)
    pairs = held_out.spread()[:PAIRS]
    unsafe, safe = (
        [drawn(text) for text in side] for side in zip(*((p.unsafe, p.safe) for p in pairs), strict=True)
    )
    opening, own = refusal_tokens(backbone, [pair.unsafe for pair in fitted.pairs][:ANSWERED])
    last = [len(backbone.layers) - 1]

    def score(chats: Sequence[Chat], layers: str, strength: float) -> float:
        total = 0.0
        for start in range(0, len(chats), batch_size):
            batch = chats[start : start + batch_size]
            edit = edits(layers, strength, batch) if strength else None
            hidden = backbone.last_token_activations(batch, last, edit=edit)[:, 0]
            total += float(refusal_score(backbone.next_token_logits(hidden), opening).sum())
        return total / len(chats)

    def apart(layers: str, strength: float) -> float:
        return score(unsafe, layers, strength) - score(safe, layers, strength)

    candidates = list(product(ranges(len(backbone.layers)), STRENGTHS if alpha is None else (alpha,)))
    undefended = apart(candidates[0][0], 0.0)
    gains = {one: apart(*one) - undefended for one in candidates}
    best = max(candidates, key=lambda one: gains[one])
    if not all(gain == gain for gain in gains.values()):
        raise ModelError(
            f"the logits of {backbone.name} are not finite, so no layers can be chosen: "
            "load it with dtype=bfloat16 or float32"
        )
    return Calibration(
        *best,
        gain=round(gains[best], 6),
        usual=round(gains[candidates[0]], 6),
        pictures=len(unsafe) + len(safe),
        own_refusals=own,
        font=described_font(font, FREE_MONO_BOLD),
    )
