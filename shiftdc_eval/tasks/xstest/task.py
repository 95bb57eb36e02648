"""XSTest, safe and unsafe prompts as two tasks.

Source: paul-rottger/exaggerated-safety @d7bb5bd (prompts CC BY 4.0), arXiv 2308.01263.
"""

from __future__ import annotations

from typing import ClassVar

from shiftdc_eval.tasks.example import Source
from shiftdc_eval.tasks.safety import SafetyTask
from shiftdc_eval.tasks.xstest import facts, files


class XSTest(SafetyTask):
    """`xstest_safe` and `xstest_unsafe` (`label: safe | unsafe`): text only, the prompt unchanged."""

    infos = facts.TASKS
    default_judges: ClassVar[tuple[str, ...]] = ("keyword_robust", "keyword_xstest")
    group: ClassVar[str] = "type"

    def load(self) -> Source:
        """See `files.load`."""
        return files.load(self.info.name, self.settings)
