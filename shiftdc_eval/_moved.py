"""Modules under the names they had until version 0.1: an import of such a name works once more and warns."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = "shiftdc_eval."
MOVED = {
    "adapter": "plugin.adapter",
    "arguments": "plugin.arguments",
    "backbones.backbone": "backbones.transformers_backbone",
    "board.files": "board.cell_files",
    "board.results": "core.results_folder",
    "board.statistics": "core.statistics",
    "captions": "defenses.caption_store",
    "contrast": "defenses.contrast",
    "defenses.captioned": "defenses.shiftdc_captioned",
    "defenses.direction": "defenses.directions",
    "defenses.layers": "defenses.layer_range",
    "demo": "grid.demo",
    "doctor": "plugin.doctor",
    "errors": "core.errors",
    "journal": "plugin.journal",
    "judges.calibration": "judges.human_agreement",
    "judges.samples": "judges.samples_file",
    "manifests": "plugin.manifests",
    "messages": "plugin.messages",
    "provenance": "core.provenance",
    "records": "core.records",
    "run": "plugin.run",
    "samples": "plugin.requests",
    "toy.pictures": "tasks.toy.world.pictures",
    "toy.world": "tasks.toy.world.items",
}
"""Old name -> new name, below the package."""
GONE = {"toy": "tasks.toy.world"}
"""Package that is no more, but whose modules are looked for under new names -> where they are."""


class _Renamed(Loader):
    def __init__(self, target: str) -> None:
        self._target = target

    def create_module(self, spec: ModuleSpec) -> None:
        """A placeholder, which the module itself takes the place of."""

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self._target)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.removeprefix(PACKAGE)
        if name == fullname:
            return None
        if name not in MOVED and name not in GONE:
            return None
        new = PACKAGE + (MOVED | GONE)[name]
        warnings.warn(
            f"{fullname} is {new} now; the old name goes with the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        # without a loader it is an empty namespace package
        return ModuleSpec(fullname, None if name in GONE else _Renamed(new), is_package=name in GONE)


def install() -> None:
    """Let old names be found, after all other ways."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
