"""Vision-language models behind one interface: chats in, tokens out, decoder layers visible.

Its names are imported when they are first used: that takes transformers and seconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shiftdc_eval.backbones.chat import Chat, Turn
    from shiftdc_eval.backbones.generation import Generated, GenerationSettings
    from shiftdc_eval.backbones.interface import Backbone
    from shiftdc_eval.backbones.loading import load_backbone
    from shiftdc_eval.core.model_spec import ModelSpec

__all__ = ["Backbone", "Chat", "Generated", "GenerationSettings", "ModelSpec", "Turn", "load_backbone"]
_HOME = {
    "Backbone": "backbones.interface",
    "Chat": "backbones.chat",
    "Generated": "backbones.generation",
    "GenerationSettings": "backbones.generation",
    "ModelSpec": "core.model_spec",
    "Turn": "backbones.chat",
    "load_backbone": "backbones.loading",
}
"""Name -> module below the package."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"shiftdc_eval.{_HOME[name]}"), name)
