"""The forward passes of a defense, as a plan counts them before anything is run."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

from shiftdc_eval.backbones.interface import Capability

Kind = Literal["answers", "captions", "activations"]


@dataclass(frozen=True)
class Pass:
    """One prompt that an item with an image takes besides the answer itself."""

    kind: Kind
    shared: tuple[Hashable, ...] | None = None
    """Passes with equal keys on the same model and task are shared; None: never shared."""
    without_image: bool = False
    """Also run for items without an image."""


UNDEFENDED = Pass("answers", ("undefended",))
"""The undefended greedy answer."""
STEERS: frozenset[Capability] = frozenset({"generate", "activations", "edit_prefill"})
"""What a backbone must be able to do for a calibration of the last prompt token."""
CHOOSES: frozenset[Capability] = STEERS | {"edit_decode", "final_norm", "logits"}
"""What it takes to steer every token and to choose the layer by the model's next tokens."""
TEXT_ALONE = Pass("activations", ("text", "none", False))
"""The request without its image, in the chat template."""
