"""Defenses: what stands between a request and the backbone; its names are imported when they are first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shiftdc_eval.defenses.base import NOT_APPLICABLE, Answer, Defense, Request, Settings, Tools
    from shiftdc_eval.defenses.registry import DEFENSES

__all__ = ["DEFENSES", "NOT_APPLICABLE", "Answer", "Defense", "Request", "Settings", "Tools"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "registry" if name == "DEFENSES" else "base"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
