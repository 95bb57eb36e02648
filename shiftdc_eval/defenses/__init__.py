"""Defenses: one file each, one line in the registry."""

from shiftdc_eval.defenses.base import NOT_APPLICABLE, Answer, Defense, Request, Settings, Tools
from shiftdc_eval.defenses.none import NoDefense
from shiftdc_eval.defenses.shiftdc import RandomControl, ShiftDC

DEFENSES: dict[str, type[Settings]] = {
    "none": NoDefense,
    "shiftdc": ShiftDC,
    "random": RandomControl,
}
"""Name -> class; its fields are the defense's model arguments."""

__all__ = ["DEFENSES", "NOT_APPLICABLE", "Answer", "Defense", "Request", "Settings", "Tools"]
