"""MSTS: the bare prompt with its image, in one language or several.

Source: paul-rottger/msts-multimodal-safety @e9ae69e, hub felfri/MSTS (CC BY 4.0), arXiv 2501.10057.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from shiftdc_eval.tasks.example import Source
from shiftdc_eval.tasks.info import BLANK, TaskInfo
from shiftdc_eval.tasks.msts import facts, files
from shiftdc_eval.tasks.safety import SafetyTask


class MSTS(SafetyTask):
    """`msts` and its variants; a yaml file of another name chooses `languages`."""

    infos = facts.TASKS
    group: ClassVar[str] = "hazard"

    def describe(self, settings: Mapping[str, Any]) -> TaskInfo:
        """The entry of `infos`, or for another name `msts` with the size of the yaml's languages."""
        name = settings.get("task", "")
        if name.removesuffix(BLANK) in {info.name for info in facts.TASKS}:
            return super().describe(settings)
        own = super().describe({**settings, "task": facts.MSTS.name})
        languages = files.languages_of(settings.get("dataset_kwargs") or {}, name)
        return replace(own, name=name, size=facts.size_of(languages))

    def load(self) -> Source:
        """See `files.load`."""
        return files.load(self.info.twin_of or self.info.name, {**self.settings, "languages": self.languages})
