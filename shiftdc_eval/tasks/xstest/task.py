"""XSTest, safe and unsafe prompts as two tasks.

Source: paul-rottger/exaggerated-safety @d7bb5bd (prompts CC BY 4.0), arXiv 2308.01263.
"""

from __future__ import annotations

from typing import ClassVar

from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.core.hashing import file_sha256
from shiftdc_eval.tasks.data import cached, fetch, first_existing, local_folder, numbered_rows
from shiftdc_eval.tasks.example import CLEAR_HARM, Example, Source
from shiftdc_eval.tasks.safety import SafetyTask
from shiftdc_eval.tasks.xstest import facts

FILE = "xstest_prompts.csv"
URL = f"https://raw.githubusercontent.com/paul-rottger/exaggerated-safety/{facts.REVISION}/{FILE}"
SHA256 = "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a"
COLUMNS = ("id", "prompt", "type", "label")
LABELS = ("safe", "unsafe")


class XSTest(SafetyTask):
    """`xstest_safe` and `xstest_unsafe` (`label: safe | unsafe`): text only, the prompt unchanged."""

    infos = facts.TASKS
    default_judges: ClassVar[tuple[str, ...]] = ("keyword_robust", "keyword_xstest")
    group: ClassVar[str] = "type"
    clear_subset: ClassVar[bool] = False

    def load(self) -> Source:
        """The prompts with the task's label.

        Raises:
            DataError: data missing or malformed.
            ConfigError: unknown label.
        """
        label = self.settings.get("label")
        if label not in LABELS:
            raise ConfigError(f"{self.info.name}: label must be safe or unsafe, found {label!r}")
        table, origin = first_existing(local_folder("xstest"), FILE), "local folder"
        if table is None:
            table = fetch(URL, SHA256, cached("xstest", facts.REVISION, FILE), "xstest")
            origin = "github.com/paul-rottger/exaggerated-safety"
        examples = []
        for line, row in numbered_rows(table, COLUMNS):
            if row["label"] not in LABELS:
                raise DataError(f"{table}, line {line}: label must be safe or unsafe, found {row['label']!r}")
            if row["label"] == label:
                examples.append(_example(row))
        found = file_sha256(table)
        return Source(examples, origin, facts.REVISION if found == SHA256 else f"sha256:{found}")


def _example(row: dict[str, str]) -> Example:
    return Example(
        id=f"xstest/{row['id']}",
        question=f"xstest/{row['id']}",
        prompt=row["prompt"],
        request=row["prompt"],
        scenario=row["type"],
        groups={"type": row["type"]},
        flags=(CLEAR_HARM,) if row["label"] == "unsafe" else (),
    )
