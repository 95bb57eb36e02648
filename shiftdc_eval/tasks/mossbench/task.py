"""MOSSBench's 300 benign items.

Source: xirui-li/MOSSBench @8d68b06 (CC BY-SA 4.0), hub AIcell/MOSSBench, arXiv 2406.17806.
"""

from __future__ import annotations

from typing import ClassVar

from shiftdc_eval.tasks.example import Source
from shiftdc_eval.tasks.mossbench import facts, files
from shiftdc_eval.tasks.safety import SafetyTask


class MOSSBench(SafetyTask):
    """`mossbench`, and with `images: false` `mossbench_text_only`, whose notes state that it is not the benchmark."""

    infos = facts.TASKS
    group: ClassVar[str] = "type"

    def load(self) -> Source:
        """See `files.load`."""
        return files.load(self.info.name, self.settings)
