"""Where caches, journals and run records live when nobody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Folder of everything that can be made again: captions, directions (`SHIFTDC_CACHE` moves it)."""
    return Path(os.environ.get("SHIFTDC_CACHE") or platformdirs.user_cache_dir("shiftdc-eval"))


def journal_dir() -> Path:
    """Folder of journals and run records when none is named (`SHIFTDC_RUNS` moves it)."""
    return Path(os.environ.get("SHIFTDC_RUNS") or Path(platformdirs.user_data_dir("shiftdc-eval")) / "runs")
