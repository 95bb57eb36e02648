"""Answers as rows, from which cells are joined and to which cells are converted back."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from shiftdc_eval.board.cell import HASH_DIGITS, LETTERS, Cell, GroupColumn, JudgeColumn, Kind, Samples
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.records import JudgeCost, SampleField, VerdictRecord

NOT_JUDGED = "not judged"
REASON_LENGTH = 60
SCORE_DIGITS = 6
"""Digits kept of a detector's score: batches change the later ones."""

Value = str | float | None
Verdict = tuple[Value, str]
"""(value, reason); the reason only where there is no value."""
RowKey = tuple[str, int]
NOT_RECORDED = (None, None, None, None)
Spent = tuple[float | None, float | None, float | None, float | None]
"""Seconds, prompt tokens, reply tokens and USD of a verdict; None where unknown."""


@dataclass(frozen=True)
class JudgeId:
    """Identity of a verdict column."""

    name: str
    fingerprint: str
    kind: Kind


@dataclass
class Row:
    """One answer and its verdicts."""

    question: str
    prompt: str
    image: str
    response: str
    groups: Mapping[str, str]
    flags: frozenset[str]
    source: str
    """File and line, for error messages."""
    detector: float | None = None
    """Score of a detector or a gate."""
    verdicts: dict[JudgeId, Verdict] = field(default_factory=dict)
    models: dict[JudgeId, frozenset[str]] = field(default_factory=dict)
    """Models that judged, by judge; none for judges without one."""
    spent: dict[JudgeId, Spent] = field(default_factory=dict)
    """Cost of the verdicts, where it is recorded."""
    rubrics: dict[JudgeId, str] = field(default_factory=dict)
    """Hash of the judges' rubrics, where it is recorded."""

    def take(self, other: Row, judge: JudgeId) -> None:
        """Take over another row's verdict and what it cost."""
        self.verdicts[judge] = other.verdicts[judge]
        self.spent.pop(judge, None)
        if judge in other.spent:
            self.spent[judge] = other.spent[judge]

    def merge(self, other: Row, key: RowKey) -> None:
        """Take over the verdicts of another row of the same answer.

        A scored verdict replaces an unscored one. Of two reasons for
        no verdict the one that was there stays.

        Raises:
            RecordError: the two contradict each other.
        """
        for name in ("question", "prompt", "image", "response", "groups", "flags", "detector"):
            if getattr(self, name) != getattr(other, name):
                raise self._contradiction(other, key, name)
        for judge, verdict in other.verdicts.items():
            if judge not in self.verdicts:
                self.take(other, judge)
            value, _ = self.verdicts[judge]
            if value is None and verdict[0] is not None:
                self.take(other, judge)
            elif verdict[0] is not None and verdict[0] != value:
                raise self._contradiction(other, key, f"verdict of {judge.name}")
        for judge, models in other.models.items():
            self.models[judge] = self.models.get(judge, frozenset()) | models
        self.rubrics = other.rubrics | self.rubrics

    def _contradiction(self, other: Row, key: RowKey, name: str) -> RecordError:
        return RecordError(
            f"{other.source}: item {key[0]!r} repeat {key[1]}: {name} differs from {self.source}; "
            "the two answer the same cell, so keep one of them (`board build --replace` lets new results "
            "take the place of a cell that is already on the board)"
        )


def row_of(sample: SampleField, source: str) -> tuple[RowKey, Row]:
    """A sample row as a row.

    Raises:
        RecordError: a verdict does not fit its kind.
    """
    row = Row(
        question=sample.question,
        prompt=sample.prompt_sha256[:HASH_DIGITS],
        image=images_hash(sample.image_sha256),
        response=(sample.response_sha256 or "")[:HASH_DIGITS],
        groups=sample.groups,
        flags=frozenset(sample.flags),
        source=source,
        detector=None
        if sample.detector_score is None
        else float(f"{sample.detector_score:.{SCORE_DIGITS}g}"),
        verdicts={
            JudgeId(name, verdict.judge, verdict.kind): checked(
                verdict, f"{source}: item {sample.item!r}: {name}"
            )
            for name, verdict in sample.verdicts.items()
        },
        models={
            JudgeId(name, verdict.judge, verdict.kind): frozenset({verdict.model})
            for name, verdict in sample.verdicts.items()
            if verdict.model
        },
        spent={
            JudgeId(name, verdict.judge, verdict.kind): spent_of(verdict)
            for name, verdict in sample.verdicts.items()
            if spent_of(verdict) != NOT_RECORDED
        },
        rubrics={
            JudgeId(name, verdict.judge, verdict.kind): verdict.rubric
            for name, verdict in sample.verdicts.items()
            if verdict.rubric
        },
    )
    return (sample.item, sample.repeat), row


def spent_of(cost: VerdictRecord | JudgeCost) -> Spent:
    """Cost of a verdict, or of a column."""
    return cost.seconds, cost.tokens_in, cost.tokens_out, cost.price


def images_hash(hashes: list[str]) -> str:
    """Short hash of an answer's images; that of the image itself when there is one."""
    if len(hashes) <= 1:
        return "".join(hashes)[:HASH_DIGITS]
    return hashlib.sha256("+".join(hashes).encode()).hexdigest()[:HASH_DIGITS]


def checked(verdict: VerdictRecord, source: str) -> Verdict:
    """(value, reason); a reason is kept for unscored verdicts only, and only its first words.

    Raises:
        RecordError: the value does not fit the kind.
    """
    if verdict.value is None:
        return None, verdict.reason.split(":")[0].strip()[:REASON_LENGTH] or "no reason given"
    if verdict.kind == "score":
        if isinstance(verdict.value, str) or not abs(verdict.value) < float("inf"):
            raise RecordError(f"{source}: a score is a finite number, not {verdict.value!r}")
        return float(verdict.value), ""
    allowed = [value for value in LETTERS[verdict.kind].values() if value != "unscored"]
    if verdict.value not in allowed:
        raise RecordError(
            f"{source}: {verdict.value!r} is not a {verdict.kind} verdict; expected one of {allowed}"
        )
    return verdict.value, ""


def columns(rows: Mapping[RowKey, Row]) -> tuple[Samples, list[JudgeColumn]]:
    """Rows as the columns of a cell, sorted by item and repeat."""
    keys = sorted(rows)
    ordered = [rows[key] for key in keys]
    own_question = all(row.question == item for (item, _), row in zip(keys, ordered, strict=True))
    samples = Samples(
        item=[item for item, _ in keys],
        question=None if own_question else [row.question for row in ordered],
        repeat=[repeat for _, repeat in keys] if any(repeat for _, repeat in keys) else None,
        prompt=[row.prompt for row in ordered],
        image=[row.image for row in ordered],
        response=[row.response for row in ordered],
        groups=_group_columns(ordered),
        flags={
            flag: [number for number, row in enumerate(ordered) if flag in row.flags]
            for flag in sorted({flag for row in ordered for flag in row.flags})
        },
        detector=[row.detector for row in ordered]
        if any(row.detector is not None for row in ordered)
        else None,
    )
    judges = {judge for row in ordered for judge in row.verdicts}
    made = [_judge_column(judge, ordered) for judge in judges]
    return samples, sorted(made, key=lambda column: column.key)


def _group_columns(rows: list[Row]) -> dict[str, GroupColumn]:
    made = {}
    for name in sorted({name for row in rows for name in row.groups}):
        values = sorted({row.groups[name] for row in rows if name in row.groups})
        code = {value: number for number, value in enumerate(values)}
        codes = [code[row.groups[name]] if name in row.groups else len(values) for row in rows]
        made[name] = GroupColumn(values=values, codes=codes)
    return made


def _judge_column(judge: JudgeId, rows: list[Row]) -> JudgeColumn:
    given = [row.verdicts.get(judge, (None, NOT_JUDGED)) for row in rows]
    unscored = sorted((reason, number) for number, (value, reason) in enumerate(given) if value is None)
    reasons = {
        reason: [number for _, number in group]
        for reason, group in groupby(unscored, key=lambda pair: pair[0])
    }
    verdicts: str | list[float | None]
    if judge.kind == "score":
        verdicts = [value if isinstance(value, float) else None for value, _ in given]
    else:
        letter = {value: letter for letter, value in LETTERS[judge.kind].items()}
        verdicts = "".join(letter["unscored" if value is None else str(value)] for value, _ in given)
    return JudgeColumn(
        name=judge.name,
        fingerprint=judge.fingerprint,
        kind=judge.kind,
        models=sorted({model for row in rows for model in row.models.get(judge, ())}),
        rubric=next((row.rubrics[judge] for row in rows if judge in row.rubrics), ""),
        cost=_cost([row.spent.get(judge) for row in rows if judge in row.verdicts]),
        verdicts=verdicts,
        reasons=reasons,
    )


def _cost(spent: list[Spent | None]) -> JudgeCost | None:
    """The sum, whatever the order; each part is None when one verdict does not know it."""
    known = [one for one in spent if one is not None]
    if len(known) < len(spent):
        return None
    seconds, tokens_in, tokens_out, price = (
        None if None in parts else math.fsum(part for part in parts if part is not None)
        for parts in zip(*known, strict=True)
    )
    return JudgeCost(
        seconds=None if seconds is None else round(seconds, 6),
        tokens_in=None if tokens_in is None else round(tokens_in),
        tokens_out=None if tokens_out is None else round(tokens_out),
        price=None if price is None else round(price, 9),
    )


def rows_of(cell: Cell) -> dict[RowKey, Row]:
    """The rows a cell was made of."""
    samples, source = cell.samples, f"cells/{cell.path}"
    flagged = {flag: frozenset(rows) for flag, rows in samples.flags.items()}
    rows: dict[RowKey, Row] = {}
    for number, key in enumerate(samples.keys()):
        rows[key] = Row(
            question=(samples.question or samples.item)[number],
            prompt=samples.prompt[number],
            image=samples.image[number],
            response=samples.response[number],
            groups={
                name: group.values[group.codes[number]]
                for name, group in samples.groups.items()
                if group.codes[number] < len(group.values)
            },
            flags=frozenset(flag for flag, numbers in flagged.items() if number in numbers),
            source=source,
            detector=samples.detector[number] if samples.detector else None,
        )
    for column in cell.judges:
        _put_verdicts(column, list(rows.values()))
    return rows


def _put_verdicts(column: JudgeColumn, rows: Iterable[Row]) -> None:
    judge = JudgeId(column.name, column.fingerprint, column.kind)
    reason = {number: text for text, numbers in column.reasons.items() for number in numbers}
    given = len(column.verdicts) - len(column.reasons.get(NOT_JUDGED, ()))
    share: Spent | None = None
    if column.cost is not None and given:
        seconds, tokens_in, tokens_out, price = (
            None if part is None else part / given for part in spent_of(column.cost)
        )
        share = seconds, tokens_in, tokens_out, price
    for number, (row, verdict) in enumerate(zip(rows, column.verdicts, strict=True)):
        if reason.get(number) == NOT_JUDGED:
            continue
        value = LETTERS[column.kind][verdict] if isinstance(verdict, str) else verdict
        row.verdicts[judge] = (None if number in reason else value, reason.get(number, ""))
        row.models[judge] = frozenset(column.models)
        if share is not None:
            row.spent[judge] = share
        if column.rubric:
            row.rubrics[judge] = column.rubric
