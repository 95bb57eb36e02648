"""Measure and compare inference-time safety defenses for vision-language models.

`load`, `wrap` and what goes with them (docs/python.md) are imported when they are first used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from shiftdc_eval import _moved

if TYPE_CHECKING:
    from shiftdc_eval.backbones import Chat
    from shiftdc_eval.defenses import DEFENSES, Answer, Request, Settings
    from shiftdc_eval.defenses.defended_model import DefendedModel, load, wrap
    from shiftdc_eval.steering import SafetyDirection

__all__ = [
    "DEFENSES",
    "Answer",
    "Chat",
    "DefendedModel",
    "Request",
    "SafetyDirection",
    "Settings",
    "__version__",
    "load",
    "wrap",
]
_HOME = {
    "Chat": "backbones",
    "SafetyDirection": "steering",
    **dict.fromkeys(("DEFENSES", "Answer", "Request", "Settings"), "defenses"),
    **dict.fromkeys(("DefendedModel", "load", "wrap"), "defenses.defended_model"),
}
"""Name -> module below the package."""

try:
    __version__ = version("shiftdc-eval")
except PackageNotFoundError:  # a checkout that was not installed
    __version__ = "unknown"

_moved.install()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
