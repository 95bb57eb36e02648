"""JailBreakV-28K's mini split: the jailbreak text with its image, judged by Llama Guard on text and answer.

Source: hub JailbreakV-28K/JailBreakV-28k (MIT), arXiv 2404.03027.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from shiftdc_eval.judges.verdict import Kind
from shiftdc_eval.tasks.example import Source
from shiftdc_eval.tasks.jailbreakv import facts, files
from shiftdc_eval.tasks.official import OfficialTask


class JailBreakV(OfficialTask):
    """`jailbreakv_mini`: ASR by Llama Guard, refusals by keywords beside it."""

    infos = facts.TASKS
    group: ClassVar[str] = "attack"
    official: ClassVar[Mapping[str, Kind]] = {"llama_guard": "harm"}

    def load(self) -> Source:
        """See `files.load`."""
        return files.load(self.info.name, self.settings)
