"""Reading answers from lmms-eval's samples files and adding verdicts to them.

A row is judged from its field `shiftdc_item` (request, prompt, response, scenario, reference); verdicts go
into its field `shiftdc`. Nothing else in a row changes, and verdicts are never removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import ConfigError, RecordError
from shiftdc_eval.core.files import atomic_write
from shiftdc_eval.core.hashing import text_sha256
from shiftdc_eval.core.locks import locked
from shiftdc_eval.core.records import SampleField, VerdictRecord
from shiftdc_eval.core.results_folder import FIELD, sample_field, sample_file, stored_item
from shiftdc_eval.judges.verdict import Item, Verdict

Key = tuple[str, int]
"""(item, repeat): identifies an answer of one run."""
Place = tuple[str, int, str | None]
"""(item, repeat, hash of the response): identifies an answer in a file that may hold several runs."""


@dataclass(frozen=True)
class Answer:
    """One stored answer."""

    key: Key
    item: Item
    field: SampleField

    @property
    def place(self) -> Place:
        """Its identity in the file."""
        return *self.key, self.field.response_sha256


@dataclass(frozen=True)
class SamplesFile:
    """One samples file and the answers in it."""

    path: Path
    answers: list[Answer]

    @property
    def is_utility(self) -> bool:
        """True where answers are scored against references; refusal and harm judges skip such files."""
        kinds = {verdict.kind for answer in self.answers for verdict in answer.field.verdicts.values()}
        return kinds <= {"score"} and all(answer.item.reference for answer in self.answers)

    def unjudged(self, name: str, fingerprint: str) -> list[Answer]:
        """The answers without a scored verdict of this judge.

        An unscored verdict of another judge says nothing and gives way, such as MM-Vet's note that no
        grader was named.

        Raises:
            ConfigError: scored verdicts of another judge stand under this name.
        """
        todo = []
        for answer in self.answers:
            verdict = answer.field.verdicts.get(name)
            if verdict is None or verdict.value is None:
                todo.append(answer)
            else:
                _require_same(self.path, name, verdict, fingerprint)
        return todo


def read_samples(path: Path) -> SamplesFile:
    """Read a samples file.

    Raises:
        RecordError: a row is not ours, or its response is not the one that was hashed when it was made.
    """
    file = sample_file(path)
    return SamplesFile(path, [_answer(row, f"{path}:{number}") for number, row in file.rows()])


def _answer(row: Mapping[str, Any], where: str) -> Answer:
    if FIELD not in row:
        raise RecordError(f"{where}: no field `{FIELD}`; only samples of our tasks can be judged")
    field, stored = sample_field(row, where), stored_item(row, where)
    response = stored.response
    if field.response_sha256 != (None if response is None else text_sha256(response)):
        raise RecordError(f"{where}: the response is not the one this row was made with (its hash differs)")
    item = Item(
        id=field.item,
        request=stored.request or "",
        response=response,
        prompt=stored.prompt or "",
        scenario=stored.scenario or "",
        reference=stored.reference or None,
        context=stored.context or "",
        unanswered=field.unanswered,
        begun=field.begun,
        reasoning_tags=None if field.reasoning_tags is None else tuple(field.reasoning_tags),
    )
    return Answer((field.item, field.repeat), item, field)


def verdict_record(verdict: Verdict, fingerprint: str, rubric: str) -> VerdictRecord:
    """A verdict as it stands in a sample row.

    Args:
        fingerprint: sha256 of the judge.
        rubric: sha256 of its rubric or keyword list; empty when it has none.
    """
    return VerdictRecord(judge=fingerprint, rubric=rubric, **verdict.model_dump())


def add_verdicts(
    path: Path, name: str, fingerprint: str, rubric: str, verdicts: Mapping[Place, Verdict]
) -> None:
    """Write verdicts into a samples file, whole or not at all; rows without a new verdict keep their bytes.

    The file is read again under a lock, so that verdicts that another process wrote meanwhile stay.

    Raises:
        ConfigError: another judge wrote scored verdicts under this name meanwhile.
        WriteError: the file cannot be written.
    """
    with locked(path.with_name(f".{path.name}.lock")):
        file = sample_file(path)
        lines = []
        for number, line, row in file.lines():
            field = row.get(FIELD)
            verdict = verdicts.get(_place(field)) if isinstance(field, dict) else None
            if verdict is not None:
                known = sample_field(row, f"{path}:{number}").verdicts.get(name)
                if known is not None and known.value is not None:
                    _require_same(path, name, known, fingerprint)
                else:
                    record = verdict_record(verdict, fingerprint, rubric)
                    row[FIELD].setdefault("verdicts", {})[name] = record.model_dump()
                    line = _dump(row)
            lines.append(line + "\n")
        # a line that is cut off stays: it says that rows are missing
        atomic_write(path, "".join(lines).encode() + file.torn())


def _place(field: Mapping[str, Any]) -> Place:
    return str(field.get("item")), field.get("repeat", 0), field.get("response_sha256")


def _require_same(path: Path, name: str, known: VerdictRecord, fingerprint: str) -> None:
    if known.judge != fingerprint:
        raise ConfigError(
            f"{path}: the verdicts under {name!r} are of a judge with other settings or another "
            f"model; give this one a name of its own with `as=`, e.g. --judge '...;as={name}_2'"
        )


def _dump(row: object) -> str:
    text = json.dumps(row, ensure_ascii=False)
    return text if text.isascii() or _encodes(text) else json.dumps(row)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
