"""The task of a CSV benchmark: harmful or benign requests, or questions with a reference answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from shiftdc_eval.judges.verdict import Judge
from shiftdc_eval.tasks.exact_match import EXACT_MATCH
from shiftdc_eval.tasks.example import Source
from shiftdc_eval.tasks.folder.items import read
from shiftdc_eval.tasks.folder.settings import checked
from shiftdc_eval.tasks.info import RESOLVED, TaskInfo
from shiftdc_eval.tasks.judging import graders
from shiftdc_eval.tasks.safety import SafetyTask


class FolderTask(SafetyTask):
    """`kind: harmful | benign` counts refusals; `kind: utility` compares answers with references."""

    group: ClassVar[str] = "group"

    def describe(self, settings: Mapping[str, Any]) -> TaskInfo:
        """The task's description, from its yaml.

        Raises:
            ConfigError: a setting is unknown, missing or wrong.
        """
        name = str(settings.get("task", "folder"))
        chosen = checked(settings.get("dataset_kwargs") or {}, f"task {name}")
        utility = chosen.kind == "utility"
        return TaskInfo(
            name=name,
            version=int((settings.get("metadata") or {}).get("version", 1)),
            about=f"{chosen.kind} items of a CSV file",
            dataset="local folder",
            revision=RESOLVED,
            licence="not stated",
            citation="",
            size=None,
            metric="exact_match" if utility else "refusal_rate",
            benign=chosen.kind == "benign",
            utility=utility,
        )

    def load(self) -> Source:
        """The rows of the CSV file.

        Raises:
            DataError: file, column, cell or image missing or malformed.
        """
        return read(self.info.name, checked(self.settings, f"task {self.info.name}"))

    def make_judges(self) -> list[Judge]:
        """As every safety task; questions by the named graders that need a reference, else by exact match."""
        if not self.info.utility:
            return super().make_judges()
        return graders(self.named_judges) or [EXACT_MATCH]
