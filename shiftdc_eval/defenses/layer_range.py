"""Layer ranges in settings: `10-31` (0-based, inclusive), `15`, or none for the default."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

from shiftdc_eval.core.errors import ConfigError


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


LayerRange = Annotated[str | None, BeforeValidator(_text)]
"""A layer range as a setting: YAML and Python give one layer as a number."""


def layer_range(text: str | None, count: int, *, default_start: int) -> list[int]:
    """The layers a range names.

    Args:
        text: `first-last` or one number; None means `default_start` to the last layer.
        count: number of decoder layers.
        default_start: first layer of the default range.

    Raises:
        ConfigError: not a range, or outside the model.
    """
    if text is None:
        return list(range(default_start, count))
    match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", text)
    if match is None:
        raise ConfigError(
            f"layers={text} is not a layer range; write first-last, e.g. layers=10-31 (0-based)"
        )
    first = int(match[1])
    last = int(match[2] or first)
    if first > last or last >= count:
        raise ConfigError(f"layers={text} does not fit a model with decoder layers 0 to {count - 1}")
    return list(range(first, last + 1))
