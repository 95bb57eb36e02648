"""A cell: all verdicts for one (task, model, defense configuration, generation settings, dtype, attention
kernel, engine, seed).

A cell holds hashes and verdicts, never text and never an aggregate: the board computes its numbers from the
verdicts each time. Samples are stored as columns, one entry per answer, sorted by item and repeat, so that
five thousand answers make a small file. The path of a cell is derived from its content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from shiftdc_eval.core.hashing import content_hash
from shiftdc_eval.core.records import Cost, Count, Json, JudgeCost, Moment, Record, Seed

CELL_VERSION: Literal[1] = 1
HASH_DIGITS = 16
"""Hex digits kept of a sample's hashes: enough to detect a change, small enough for thousands of rows."""

Kind = Literal["refusal", "harm", "score"]
LETTERS: Mapping[str, Mapping[str, str]] = {
    "refusal": {"R": "refused", "C": "complied", "-": "unscored"},
    "harm": {"S": "safe", "U": "unsafe", "-": "unscored"},
}
"""Letters of the verdicts in a column, by kind."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=120)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ShortHash = Annotated[str, StringConstraints(pattern=rf"^([0-9a-f]{{{HASH_DIGITS}}})?$")]
Text = Annotated[str, StringConstraints(max_length=4000)]


class CellTask(Record):
    """The task."""

    name: Name
    """lmms-eval task name."""
    version: Annotated[str, StringConstraints(min_length=1, max_length=40)]
    """Task version; two versions are never compared."""
    dataset: Text = ""
    """Source of the data."""
    revision: Text = ""
    """Revision or checksum of the data."""
    benign: bool = False
    """True where a refusal is a failure."""
    utility: bool | None = None
    """True where scores rate quality, False where they rate harm; None: not recorded."""
    items: Annotated[int, Field(ge=1, strict=True)]
    """Items of the full task."""
    generation: dict[str, Json] = Field(default_factory=dict)
    """Resolved generation settings."""
    score: Literal["mean", "percent", "mme"] = "mean"
    """How scores are aggregated."""
    notes: list[Text] = Field(default_factory=list)
    """Facts that change the meaning of the result."""


class CellModel(Record):
    """The model."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+:@=,/-]*$", max_length=200)]
    """Hub id, or the name of a local folder."""
    revision: Text
    """Revision of the weights; empty when unknown."""
    architecture: Text = ""
    """Class of the model."""
    note: Text = ""
    """A caveat shown with the model everywhere (`toy`, `small research model`)."""
    template_sha256: Sha256 | None = None
    """Hash of the chat template; None when unknown."""
    system_prompt: Text = ""
    """System prompt of every chat."""


class CellDefense(Record):
    """The defense."""

    name: Name
    settings: dict[str, Json] = Field(default_factory=dict)
    """Resolved settings, defaults included."""
    direction_sha256: Sha256 | None = None
    """Content hash of the safety direction."""
    answer_version: Count = 1
    """Version of the code that makes answers, raised by hand."""


class GroupColumn(Record):
    """One grouping of the samples."""

    values: list[Text]
    """Sorted names of the groups."""
    codes: list[Count]
    """One index into `values` per answer; `len(values)` means that the answer is in no group."""


class Samples(Record):
    """The answers as columns of equal length."""

    item: list[Annotated[str, StringConstraints(min_length=1, max_length=300)]]
    """Benchmark item of each answer."""
    question: list[str] | None = None
    """Question of each answer; None when every item has its own."""
    repeat: list[Count] | None = None
    """Index among the repeats of an item; None when every item has one answer."""
    prompt: list[ShortHash]
    """Hash of the text prompt."""
    image: list[ShortHash]
    """Hash of the image or images; empty without an image."""
    response: list[ShortHash]
    """Hash of the response; empty when generation failed."""
    groups: dict[str, GroupColumn] = Field(default_factory=dict)
    """Groupings by name."""
    flags: dict[str, list[Count]] = Field(default_factory=dict)
    """Rows with a flag, by flag."""
    detector: list[Annotated[float, Field(allow_inf_nan=False)] | None] | None = None
    """Score of a detector or a gate; null where an answer has none, None where no answer has one."""

    def __len__(self) -> int:
        return len(self.item)

    def keys(self) -> list[tuple[str, int]]:
        """(item, repeat) of every answer."""
        return list(zip(self.item, self.repeat or [0] * len(self.item), strict=True))

    @model_validator(mode="after")
    def _columns_agree(self) -> Samples:
        size = len(self.item)
        if not size:
            raise ValueError("item: a cell needs at least one answer")
        columns: dict[str, Sequence[Any]] = {
            "prompt": self.prompt,
            "image": self.image,
            "response": self.response,
        }
        columns |= {"question": self.question or self.item, "repeat": self.repeat or self.item}
        columns |= {"detector": self.detector or self.item}
        columns |= {f"groups.{name}": group.codes for name, group in self.groups.items()}
        for name, column in columns.items():
            if len(column) != size:
                raise ValueError(f"{name}: {len(column)} entries for {size} answers")
        for name, group in self.groups.items():
            if group.values != sorted(set(group.values)):
                raise ValueError(f"groups.{name}.values: not sorted or not unique")
            if max(group.codes) > len(group.values):
                raise ValueError(f"groups.{name}.codes: {max(group.codes)} is not an index into the values")
        for name, rows in self.flags.items():
            if any(a >= b for a, b in pairwise(rows)) or (rows and rows[-1] >= size):
                raise ValueError(f"flags.{name}: rows must be increasing and below {size}")
        keys = self.keys()
        for before, after in pairwise(keys):
            if before >= after:
                raise ValueError(f"item: {after[0]!r} repeat {after[1]} is duplicate or out of order")
        return self


class JudgeColumn(Record):
    """The verdicts of one judge, one per answer."""

    name: Name
    fingerprint: Sha256
    """Hash of the judge's keyword list or rubric, model and settings."""
    kind: Kind
    models: list[Text] = Field(default_factory=list)
    """Models behind the judge, as their servers name them, sorted; empty for judges without a model."""
    rubric: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    """sha256 of the rubric or keyword list; empty when there is none or it is not recorded."""
    cost: JudgeCost | None = None
    """Cost of these verdicts; None when it is not recorded for all of them."""
    verdicts: str | list[Annotated[float, Field(allow_inf_nan=False)] | None]
    """refusal: a string of R, C and -; harm: S, U and -; score: numbers and null. `-` and null: unscored."""
    reasons: dict[Text, list[Count]] = Field(default_factory=dict)
    """Unscored rows by reason."""

    @property
    def key(self) -> str:
        """Name and first digits of the fingerprint: the same name with another rubric is another column."""
        return f"{self.name}@{self.fingerprint[:8]}"

    @cached_property
    def unscored(self) -> list[int]:
        """Rows without a verdict."""
        if isinstance(self.verdicts, str):
            return [match.start() for match in re.finditer("-", self.verdicts)]
        return [row for row, verdict in enumerate(self.verdicts) if verdict is None]

    @model_validator(mode="after")
    def _verdicts_fit_kind(self) -> JudgeColumn:
        if (self.kind == "score") == isinstance(self.verdicts, str):
            expected = "a list of numbers" if self.kind == "score" else "a string of letters"
            raise ValueError(f"verdicts: a {self.kind} column is {expected}")
        if isinstance(self.verdicts, str):
            letters = "".join(LETTERS[self.kind])
            foreign = self.verdicts.translate(dict.fromkeys(map(ord, letters)))
            if foreign:
                raise ValueError(f"verdicts: {foreign[0]!r} is not a {self.kind} verdict; expected {letters}")
        explained = sorted(row for rows in self.reasons.values() for row in rows)
        if explained != self.unscored:
            raise ValueError(
                f"reasons: {len(explained)} rows explained, but {len(self.unscored)} are unscored; "
                "every unscored row needs exactly one reason"
            )
        return self


class RunSource(Record):
    """One run that answered or judged part of the cell."""

    id: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    """Run id; without a run record the date of the results."""
    recorded: bool
    """False without a run record; then less is known."""
    started: Moment = ""
    """UTC time, ISO 8601."""
    finished: Moment = ""
    """UTC time, ISO 8601."""
    command: Text = ""
    """The command line without secrets."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the relevant packages."""
    plugins: dict[str, str] = Field(default_factory=dict)
    """Defense that another installed package brought -> distribution and version."""
    git: Text = ""
    """Commit and state of the working tree."""
    hardware: Text = ""
    """Processor or accelerator."""
    engine: Text = ""
    """Engine, as in the run record; empty when unknown."""
    batch_size: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Requests per batch; None when unknown."""
    cost: Cost | None = None
    """Cost of this cell's answers in that run; None when unknown."""
    cost_shared: bool = False
    """True when the run had several tasks and its cost was divided by number of answers."""
    notes: list[Text] = Field(default_factory=list)
    """Facts that change the meaning of the result."""


class Cell(Record):
    """One cell of the grid with its per-sample verdicts."""

    cell_version: Literal[1]
    """Version of this schema."""
    task: CellTask
    model: CellModel
    defense: CellDefense
    dtype: Text
    """Compute dtype; empty when unknown."""
    attention: Text = ""
    """Attention kernel; empty when unknown."""
    seed: Seed
    """Seed of sampling and of random controls."""
    ablation: Text = ""
    """Reason for an ablation or control, which never ranks; else empty."""
    samples: Samples
    judges: list[JudgeColumn]
    runs: Annotated[list[RunSource], Field(min_length=1)]

    @model_validator(mode="after")
    def _parts_agree(self) -> Cell:
        keys = [column.key for column in self.judges]
        if keys != sorted(set(keys)):
            raise ValueError(f"judges: {keys} are not sorted or not unique")
        for column in self.judges:
            if len(column.verdicts) != len(self.samples):
                raise ValueError(
                    f"judges.{column.name}.verdicts: {len(column.verdicts)} for {len(self.samples)} answers"
                )
        if self.answered > self.task.items:
            raise ValueError(f"task.items: {self.task.items}, but {self.answered} items were answered")
        ids = [run.id for run in self.runs]
        if ids != sorted(set(ids)):
            raise ValueError(f"runs: {ids} are not sorted by id or not unique")
        return self

    @cached_property
    def answered(self) -> int:
        """Items with at least one answer."""
        return len(set(self.samples.item))

    @property
    def partial(self) -> bool:
        """True when fewer items were answered than the task has."""
        return self.answered < self.task.items

    @cached_property
    def path(self) -> str:
        """Path below `cells/`, derived from the key."""
        return cell_path(self.key())

    def key(self) -> dict[str, Any]:
        """The key of this cell; see `cell_key`."""
        return cell_key(
            self.task, self.model, self.defense, self.dtype, self.attention, self.engine, self.seed
        )

    @cached_property
    def engine(self) -> str:
        """The engine in the key; see `telling_engine`."""
        return telling_engine(self.dtype, [run.engine for run in self.runs])


def telling_engine(dtype: str, engines: Iterable[str]) -> str:
    """The engines beside `transformers` that answered in 16 bit, else empty: in float32 all give the same tokens.

    `fast`, an engine of this package's own, answered older runs. Behind a server the dtype is not known.
    """
    named = sorted(set(engines) & {"fast", "vllm", "server"})
    return "" if dtype == "float32" else " + ".join(named)


def cell_key(
    task: CellTask,
    model: CellModel,
    defense: CellDefense,
    dtype: str,
    attention: str,
    engine: str,
    seed: int,
) -> dict[str, Any]:
    """The key of a cell: exactly what can change an answer.

    It has no attention kernel where that is unknown, and no engine where `telling_engine` is empty.
    """
    return {
        "task": {
            **task.model_dump(include={"name", "version", "generation"}),
            # one revision is the same data from any source
            "data": task.revision or task.dataset,
        },
        "model": model.model_dump(include={"id", "revision", "template_sha256", "system_prompt"}),
        "defense": defense.model_dump(),
        "dtype": dtype,
        **({"attention": attention} if attention else {}),
        **({"engine": engine} if engine else {}),
        "seed": seed,
    }


def cell_path(key: Mapping[str, Any]) -> str:
    """`<task>/<model>/<defense>-<hash8>[-seed<N>].json`; the hash covers the key without the seed."""
    digest = content_hash({name: value for name, value in key.items() if name != "seed"})[:8]
    seed = f"-seed{key['seed']}" if key["seed"] else ""
    return f"{key['task']['name']}/{slug(key['model']['id'])}/{key['defense']['name']}-{digest}{seed}.json"


def slug(text: str) -> str:
    """A text as one folder name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "__", text).lstrip("._-") or "model"
