"""Judges turn (request, response) into a verdict."""

from shiftdc_eval.judges.registry import JUDGES, get_judge, judges_for
from shiftdc_eval.judges.verdict import Item, Judge, Kind, Verdict, unscored

__all__ = ["JUDGES", "Item", "Judge", "Kind", "Verdict", "get_judge", "judges_for", "unscored"]
