"""XSTest's prompts, from the local folder or from the authors' repository."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.tasks.data import RemoteFile, local_or_fetched, numbered_rows
from shiftdc_eval.tasks.example import CLEAR_HARM, Example, Source
from shiftdc_eval.tasks.xstest import facts

FILE = "xstest_prompts.csv"
TABLE = RemoteFile(
    "xstest",
    facts.REVISION,
    f"https://raw.githubusercontent.com/paul-rottger/exaggerated-safety/{facts.REVISION}/{FILE}",
    "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a",
)
COLUMNS = ("id", "prompt", "type", "label")
LABELS = ("safe", "unsafe")


def load(task: str, settings: Mapping[str, Any]) -> Source:
    """The prompts with the label that the settings name.

    Raises:
        DataError: data missing or malformed.
        ConfigError: unknown label.
    """
    label = settings.get("label")
    if label not in LABELS:
        raise ConfigError(f"{task}: label must be safe or unsafe, found {label!r}")
    table, is_local = local_or_fetched(TABLE, FILE)
    examples = []
    for line, row in numbered_rows(table, COLUMNS):
        if row["label"] not in LABELS:
            raise DataError(f"{table}, line {line}: label must be safe or unsafe, found {row['label']!r}")
        if row["label"] == label:
            examples.append(_example(row))
    origin = "local folder" if is_local else "github.com/paul-rottger/exaggerated-safety"
    return Source(examples, origin, TABLE.revision_of(table))


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
