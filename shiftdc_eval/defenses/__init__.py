"""Defenses: one file each, one line in the registry."""

from shiftdc_eval.defenses.adashield import AdaShieldS
from shiftdc_eval.defenses.base import NOT_APPLICABLE, Answer, Defense, Request, Settings, Tools
from shiftdc_eval.defenses.captioned import ShiftDCCaptioned
from shiftdc_eval.defenses.cmrm import Cmrm
from shiftdc_eval.defenses.coca import Coca
from shiftdc_eval.defenses.ecso import Ecso, EcsoCaption
from shiftdc_eval.defenses.none import NoDefense
from shiftdc_eval.defenses.refusal_direction import RefusalDirection
from shiftdc_eval.defenses.shiftdc import RandomControl, ShiftDC

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

__all__ = ["DEFENSES", "NOT_APPLICABLE", "Answer", "Defense", "Request", "Settings", "Tools"]
