"""The models that this package brings along."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path


def _toy_folder() -> tuple[Path, str]:
    return Path(str(files("shiftdc_eval.backbones.bundled") / "toy")), "toy"


def _smol_folder() -> tuple[Path, str]:
    from shiftdc_eval.backbones.bundled.smol_merge import NOTE, cached_folder

    return cached_folder(), NOTE


BUNDLED: dict[str, Callable[[], tuple[Path, str]]] = {"toy": _toy_folder, "smol": _smol_folder}
"""Name -> function that gives the folder and the caveat shown with its results."""
MERGED_ON_USE = frozenset({"smol"})
"""Those whose folder is made when it is first asked for, which takes a while."""
