"""Default folders of caches, journals and run records."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from shiftdc_eval.core.environment import setting


def cache_dir() -> Path:
    """Folder of everything that can be made again: captions, directions (`SHIFTDC_CACHE` moves it)."""
    return Path(setting("SHIFTDC_CACHE") or platformdirs.user_cache_dir("shiftdc-eval"))


def journal_dir() -> Path:
    """Folder of journals and run records when none is named (`SHIFTDC_RUNS` moves it)."""
    return Path(setting("SHIFTDC_RUNS") or Path(platformdirs.user_data_dir("shiftdc-eval")) / "runs")
