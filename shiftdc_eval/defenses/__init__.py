"""Defenses: what stands between a request and the backbone."""

from shiftdc_eval.defenses.base import NOT_APPLICABLE, Answer, Defense, Request, Settings, Tools
from shiftdc_eval.defenses.registry import DEFENSES

__all__ = ["DEFENSES", "NOT_APPLICABLE", "Answer", "Defense", "Request", "Settings", "Tools"]
