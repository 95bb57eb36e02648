"""The environment variables of this package; docs/environment.md tells what each one sets."""

from __future__ import annotations

import os

VARIABLES = frozenset(
    {
        "SHIFTDC_CACHE",
        "SHIFTDC_CALIBRATION",
        "SHIFTDC_CALIBRATION_IDS",
        "SHIFTDC_COMMAND",
        "SHIFTDC_DATA",
        "SHIFTDC_FONT",
        "SHIFTDC_JUDGES",
        "SHIFTDC_JUDGE_API_KEY",
        "SHIFTDC_JUDGE_BASE_URL",
        "SHIFTDC_JUDGE_MODEL",
        "SHIFTDC_PRICES",
        "SHIFTDC_RUNS",
        "SHIFTDC_TOY_FONTS",
    }
)
"""Every variable that the package reads under a name of its own."""


def setting(name: str) -> str:
    """The value of one of `VARIABLES`, without white space around it; empty where it is not set."""
    assert name in VARIABLES, name
    return os.environ.get(name, "").strip()
