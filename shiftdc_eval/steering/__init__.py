"""ShiftDC's mathematics and hooks: torch only, no files but the direction's own, no model classes."""

from shiftdc_eval.steering.direction import SafetyDirection, fit_direction
from shiftdc_eval.steering.edits import (
    AdaptiveShift,
    CosineGated,
    Edit,
    OnlineCalibration,
    PrototypePush,
    Shift,
    SubspaceReplacement,
    TrustRegionShift,
)
from shiftdc_eval.steering.hooks import (
    PREFILL,
    Scope,
    ablate,
    edit_last_token,
    edit_tokens,
    hooked,
    record_last_token,
)
from shiftdc_eval.steering.projection import safety_component, safety_coordinate

__all__ = [
    "PREFILL",
    "AdaptiveShift",
    "CosineGated",
    "Edit",
    "OnlineCalibration",
    "PrototypePush",
    "SafetyDirection",
    "Scope",
    "Shift",
    "SubspaceReplacement",
    "TrustRegionShift",
    "ablate",
    "edit_last_token",
    "edit_tokens",
    "fit_direction",
    "hooked",
    "record_last_token",
    "safety_component",
    "safety_coordinate",
]
