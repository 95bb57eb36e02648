"""The environment variables of this package; docs/environment.md tells what each one sets."""

from __future__ import annotations

import os

VARIABLES = frozenset(
    {
        "SHIFTDC_CACHE",
        "SHIFTDC_CALIBRATION",
        "SHIFTDC_CALIBRATION_IDS",
        "SHIFTDC_DATA",
        "SHIFTDC_FONT",
        "SHIFTDC_JUDGES",
        "SHIFTDC_JUDGE_API_KEY",
        "SHIFTDC_JUDGE_BASE_URL",
        "SHIFTDC_JUDGE_MODEL",
        "SHIFTDC_PRICES",
        "SHIFTDC_RUNS",
        "SHIFTDC_SERVER_API_KEY",
        "SHIFTDC_TOY_FONTS",
    }
)
"""Every variable that the package reads under a name of its own."""


def setting(name: str) -> str:
    """The value of one of `VARIABLES`, without white space around it; empty where it is not set."""
    assert name in VARIABLES, name
    return os.environ.get(name, "").strip()


def foreign(name: str) -> str:
    """The value of another program's variable (docs/environment.md names them), stripped; empty where it is not set."""
    return os.environ.get(name, "").strip()


def proxy_variable(scheme: str) -> str:
    """Name of the variable that sets a proxy for a scheme; empty where none does."""
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    return next((name for name in names if foreign(name)), "")
