"""Reading the settings of a judge's spec; each reader takes its setting out of the dict.

A value that does not fit is named in the error only by its setting: it might be a key in the wrong place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from shiftdc_eval.core.errors import ConfigError


def text(settings: dict[str, str], key: str, default: str = "") -> str:
    """A setting as it stands."""
    return settings.pop(key, default)


def number(settings: dict[str, str], key: str, default: float, minimum: float) -> float:
    """A finite number of at least `minimum`.

    Raises:
        ConfigError: it is none.
    """
    if key not in settings:
        return default
    try:
        value = float(settings.pop(key))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < minimum:
        raise ConfigError(f"judge setting {key!r} must be a number of at least {minimum:g}")
    return value


def whole(settings: dict[str, str], key: str, default: int, minimum: int = 1) -> int:
    """A whole number of at least `minimum`.

    Raises:
        ConfigError: it is none.
    """
    value = number(settings, key, default, minimum)
    if value != int(value):
        raise ConfigError(f"judge setting {key!r} must be a whole number of at least {minimum}")
    return int(value)


def choice(settings: dict[str, str], key: str, default: str, allowed: Sequence[str]) -> str:
    """One of several words.

    Raises:
        ConfigError: it is another.
    """
    value = settings.pop(key, default)
    if value not in allowed:
        raise ConfigError(f"judge setting {key!r} must be one of {', '.join(allowed)}")
    return value
