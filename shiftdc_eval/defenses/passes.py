"""The forward passes of a defense, as a plan counts them before anything is run."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

from shiftdc_eval.backbones.interface import Capability

Kind = Literal["answers", "captions", "activations"]


@dataclass(frozen=True)
class Pass:
    """One prompt through the model for an item with an image, besides the answer itself."""

    kind: Kind
    shared: tuple[Hashable, ...] | None = None
    """Defenses that name the same thing on the same model and task share the pass; None: it is made each time."""
    without_image: bool = False
    """Made for an item without an image too."""


UNDEFENDED = Pass("answers", ("undefended",))
"""The undefended greedy answer."""
STEERS: frozenset[Capability] = frozenset({"generate", "activations", "edit_prefill"})
"""What a backbone must be able to do for a calibration of the last prompt token."""
TEXT_ALONE = Pass("activations", ("text", "none", False))
"""The request without its image, in the chat template."""
