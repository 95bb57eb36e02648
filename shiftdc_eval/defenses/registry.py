"""The defenses by name: one file each, one line here."""

from __future__ import annotations

from shiftdc_eval.defenses.adashield import AdaShieldS
from shiftdc_eval.defenses.base import Settings
from shiftdc_eval.defenses.cmrm import Cmrm
from shiftdc_eval.defenses.coca import Coca
from shiftdc_eval.defenses.ecso import Ecso, EcsoCaption
from shiftdc_eval.defenses.none import NoDefense
from shiftdc_eval.defenses.refusal_direction import RefusalDirection
from shiftdc_eval.defenses.shiftdc import RandomControl, ShiftDC
from shiftdc_eval.defenses.shiftdc_captioned import ShiftDCCaptioned

DEFENSES: dict[str, type[Settings]] = {
    "none": NoDefense,
    "shiftdc": ShiftDC,
    "random": RandomControl,
    "shiftdc_captioned": ShiftDCCaptioned,
    "ecso": Ecso,
    "ecso_caption": EcsoCaption,
    "adashield_s": AdaShieldS,
    "cmrm": Cmrm,
    "coca": Coca,
    "refusal_direction": RefusalDirection,
}
"""Name -> class; its fields are the defense's model arguments."""
