"""The records that pass between a run and the board.

lmms-eval writes its own results and samples files. Beside them stand two things of ours:
the field `shiftdc` in every sample row (`SampleField`) and one `run-<id>.json` (`RunRecord`),
written last, so that its existence means that every answer of the run was produced.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

RECORD_VERSION: Literal[1] = 1
BLANK_IMAGES = "blank images"
"""How the note of a task begins whose images are all replaced by grey ones."""
BENIGN_ITEM = "benign"
"""Flag of items of a harmful task where a refusal is the failure."""
ANSWER_VERSION = 1
"""Raised by hand when the code that makes answers changes them: finished answers are then not reused."""


Count = Annotated[int, Field(ge=0, le=2**53)]
"""A count that sums and shares can be made of."""
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Price = Annotated[float, Field(ge=0, le=1e12)]
"""USD."""


def _finite(value: JsonValue) -> JsonValue:
    """A JSON value without NaN and infinities, which JSON has no word for."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        _finite(part)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no finite number")
    return value


Json = Annotated[JsonValue, AfterValidator(_finite)]


def _moment(text: str) -> str:
    if text:
        datetime.fromisoformat(text)
    return text


Moment = Annotated[str, AfterValidator(_moment)]
"""UTC time, ISO 8601; empty when unknown."""


class Record(BaseModel):
    """Base of all records: closed schema, immutable, no value of another type, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class VerdictRecord(Record):
    """One judge's verdict in a sample row: `judges.verdict.Verdict`, and which judge gave it.

    Samples files stay in the run folder, so the judge's raw reply may stand here; a cell never holds it.
    """

    kind: Literal["refusal", "harm", "score"]
    """What is judged."""
    value: str | float | None
    """The verdict; None when unscored."""
    reason: str = ""
    """Why it is unscored, or what the verdict rests on."""
    judge: str
    """sha256 that identifies the judge: list or rubric, model, settings."""
    model: str = ""
    """Model that judged, as its server names it; empty for judges without one."""
    rubric: str = ""
    """sha256 of the rubric or keyword list; empty for judges without one."""
    raw: str | None = None
    """The judge's raw reply; None where no model replied."""
    tokens_in: Count | None = None
    """Prompt tokens of the judge; None when unknown."""
    tokens_out: Count | None = None
    """Reply tokens of the judge; None when unknown."""
    seconds: Seconds | None = None
    """Share of the wall time of judging; a cached verdict keeps its original time."""
    price: Price | None = None
    """USD; None when unknown, 0 only where no model was asked."""


class SampleField(Record):
    """The field `shiftdc` of one row of lmms-eval's samples file."""

    item: str
    """Stable id of the benchmark item, e.g. `figstep/1_3`; unique within a task."""
    question: str
    """Id of the question the item asks; items that show one question as several images share it."""
    repeat: Count = 0
    """Index of this answer among the repeats of the item."""
    prompt_sha256: str
    """Hash of the text prompt."""
    image_sha256: list[str] = Field(default_factory=list)
    """Hash of every image's RGB pixels and size, in order."""
    response_sha256: str | None = None
    """Hash of the response; None when generation failed."""
    unanswered: str = ""
    """Why there is no response, where that is known; every judge's reason for an unscored verdict."""
    run: str | None = None
    """Id of the run that produced the answer; None when a model other than ours answered."""
    groups: dict[str, str] = Field(default_factory=dict)
    """Groups for which results are also computed: topic, scenario, image type, capability, subtask."""
    flags: list[str] = Field(default_factory=list)
    """Properties of the item that affect its result: `clipped`, `rendered`, `clear_harm`, ..."""
    detector_score: float | None = None
    """The score that a detector or a gate decided by; None where there was none."""
    begun: str = ""
    """Words at the response's start that the defense put there; keyword judges leave them out."""
    reasoning: list[str] = Field(default_factory=list)
    """Reasoning that was taken off the response before it was judged, by opening tag; the response keeps it."""
    reasoning_tags: list[Annotated[tuple[str, str], Field(strict=False)]] | None = None
    """Pairs of tags that the user named as reasoning; None: every form that we know."""
    verdicts: dict[str, VerdictRecord] = Field(default_factory=dict)
    """Verdicts by judge name."""


class StoredItem(BaseModel):
    """The field `shiftdc_item` of one row of lmms-eval's samples file: what a judge or a reader is shown."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    request: str | None
    """What the user wants, in words."""
    response: str | None
    """The answer; None when generation failed."""
    prompt: str | None = None
    """The text prompt."""
    scenario: str | None = None
    """The benchmark's own category."""
    reference: str | None = None
    """Reference answer, where the benchmark has one."""
    context: str | None = None
    """What the request builds on, where the benchmark has it apart."""


class Cost(Record):
    """Cost of a run."""

    seconds: Seconds
    """Wall seconds spent answering, without loading; reused answers count with their original time."""
    samples: Count
    """Answers, reused ones included."""
    timed: Count | None = None
    """Answers that `seconds` covers: those made on this run's hardware; None: all of them."""
    reused: Count
    """Answers taken from the journal."""
    tokens_in: Count
    """Prompt tokens of the answers, image tokens included."""
    tokens_out: Count
    """Generated answer tokens."""
    captions_made: Count | None = 0
    """Captions and undefended first answers generated for this run; None: not counted by task."""
    captions_reused: Count | None = 0
    """Captions and undefended first answers taken from the store; None: not counted by task."""
    price: Price | None = None
    """Money in USD; None when unknown."""


class JudgeCost(Record):
    """Cost of one judge's verdicts; a sum is None when one of its parts is unknown."""

    seconds: Seconds | None = None
    """Wall seconds, without loading a local judge; reused verdicts count with their original time."""
    tokens_in: Count | None = None
    """Prompt tokens."""
    tokens_out: Count | None = None
    """Reply tokens."""
    price: Price | None = None
    """USD; None when unknown, 0 only where no model was asked."""

    def __add__(self, other: JudgeCost) -> JudgeCost:
        return JudgeCost(
            seconds=_sum(self.seconds, other.seconds, 6),
            tokens_in=_sum(self.tokens_in, other.tokens_in),
            tokens_out=_sum(self.tokens_out, other.tokens_out),
            price=_sum(self.price, other.price, 9),
        )


def _sum(one: float | None, other: float | None, digits: int | None = None) -> Any:
    if one is None or other is None:
        return None
    return one + other if digits is None else round(one + other, digits)


class Rate(Record):
    """A number with its 95 % interval; None where nothing is counted."""

    value: float | None
    low: float | None
    high: float | None


class LabelAgreement(Record):
    """Agreement of one judge with the human labels of one source; unscored verdicts are counted and left out."""

    source: str
    """Source of the labels; `all` for all of them together."""
    scored: Count
    unscored: Count
    prompts: Count
    """Different prompts that the scored answers belong to; intervals go by prompt."""
    accuracy: Rate
    kappa: Rate
    """Cohen's kappa; None where the labels are of one class."""
    false_positive_rate: Rate
    """Of the truly negative (complied, safe), the share judged positive."""
    false_negative_rate: Rate
    """Of the truly positive (refused, unsafe), the share judged negative."""
    confusion: dict[str, dict[str, int]]
    """Label -> verdict -> count; the negative one first."""

    @model_validator(mode="after")
    def _shares_follow_from_the_counts(self) -> LabelAgreement:
        counts = [[*row.values()] for row in self.confusion.values()]
        if [len(row) for row in counts] != [2, 2] or any(count < 0 for row in counts for count in row):
            raise ValueError("confusion: two labels by two verdicts are needed, with counts")
        (no, alarm), (miss, yes) = counts
        if no + alarm + miss + yes != self.scored:
            raise ValueError(f"confusion: {no + alarm + miss + yes} answers, but {self.scored} are scored")
        for name, count, total in (
            ("accuracy", no + yes, self.scored),
            ("false_positive_rate", alarm, no + alarm),
            ("false_negative_rate", miss, miss + yes),
        ):
            given = getattr(self, name).value
            if (given is None) != (total == 0) or (given is not None and abs(given - count / total) > 1e-9):
                raise ValueError(f"{name}: {given} does not follow from the confusion table")
        return self


class Calibration(Record):
    """What `judge human-agreement` measured: one judge against human labels."""

    judge: str
    """Its name when it was measured."""
    fingerprint: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """sha256 that identifies the judge, as it stands in its verdicts."""
    rubric: str = ""
    """sha256 of the rubric or keyword list; empty for judges without one."""
    kind: Literal["refusal", "harm"]
    labels: dict[str, str]
    """Label of the file -> verdict it was taken for."""
    labels_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    """Hash of the labelled answers."""
    data: str = ""
    """Name of the labelled answers, e.g. `XSTest v2 completions`; empty: its sources say enough."""
    sample: Literal["in", "out", ""] = ""
    """`in`: the judge was made with these labels in view, `out`: it was not (leave-one-model-out counts as `out`);
    empty: not said, which the board treats as `in`."""
    across_kinds: bool = False
    """True: labels of harm stand for verdicts on refusal, or the other way round."""
    agreements: Annotated[list[LabelAgreement], Field(min_length=1)]
    """One a source, then one for all."""
    by_model: list[LabelAgreement] = Field(default_factory=list)
    """One a model that answered, its name as `source`; empty where the labels do not name models."""
    by_language: list[LabelAgreement] = Field(default_factory=list)
    """One a language of the answers, its name as `source`; empty where the labels do not name languages."""
    reasons: dict[str, int] = Field(default_factory=dict)
    """Why answers are unscored -> how many, the commonest first."""


class TaskRecord(Record):
    """One task of a run."""

    name: str
    """lmms-eval task name."""
    version: str
    """Task version."""
    dataset: str = ""
    """Where the data came from: hub id, repository or local folder kind."""
    revision: str = ""
    """Revision or checksum of the data."""
    benign: bool = False
    """True for an over-refusal twin: here a refusal is the failure."""
    utility: bool | None = None
    """True where scores say how good answers are, False where they say how harmful; None: the task does not say."""
    items: Count
    """Items the full task has."""
    answered: Count
    """Answers in this run."""
    generation: dict[str, Json] = Field(default_factory=dict)
    """Resolved generation settings."""
    notes: list[str] = Field(default_factory=list)
    """Facts that change what the number means (ignored settings, rendered images)."""
    score: Literal["mean", "percent", "mme"] = "mean"
    """How scores make one number: their mean, a hundred times it (grades of 0 to 1, shown as 0 to 100), or MME's sum
    over subtasks of accuracy and paired accuracy."""
    cost: Cost | None = None
    """Cost of this task, where the run had several; None: the run's cost is divided by number of answers."""


def _present_name(engine: object) -> object:
    return "transformers" if engine == "plain" else engine


class RunRecord(Record):
    """Model, defense, settings, tasks and cost of a run."""

    record_version: Literal[1] = RECORD_VERSION
    """Version of this schema."""
    id: str
    """Run id, as in the sample rows."""
    started: Moment
    """UTC time, ISO 8601."""
    finished: Moment
    """UTC time, ISO 8601."""
    model: str
    """Model id or folder name as given."""
    revision: str
    """Resolved revision of the weights, or a hash of a local folder's weights."""
    architecture: str
    """Class of the loaded model."""
    model_note: str = ""
    """A caveat shown wherever this model's cells are shown (`toy`, `small research model`)."""
    defense: str
    """Name of the defense."""
    settings: dict[str, Json]
    """The defense's resolved settings, defaults included."""
    direction_sha256: str | None = None
    """Content hash of the safety direction used."""
    template_sha256: str
    """Hash of the chat template."""
    system_prompt: str = ""
    """System prompt of every chat."""
    dtype: str
    """Compute dtype."""
    attention: str = ""
    """Attention kernel."""
    engine: Annotated[str, BeforeValidator(_present_name)] = ""
    """Engine that answered: `transformers` or `vllm`; older records also have `fast`, or none."""
    batch_size: int | None = None
    """Requests answered together at the end of the run (halved where memory ran out)."""
    seed: Seed
    """Seed of sampling and of random controls."""
    tasks: list[TaskRecord]
    """The tasks answered."""
    cost: Cost
    """What it cost."""
    command: str = ""
    """The command line, secrets removed."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the packages that matter."""
    plugins: dict[str, str] = Field(default_factory=dict)
    """Defense that another installed package brought -> distribution and version; empty for our own."""
    git: str = ""
    """Commit and state of the working tree the code ran from; empty outside a checkout."""
    hardware: str = ""
    """Processor or accelerator, in words."""
    answer_version: int = 1
    """Version of the code that makes answers, raised by hand."""
    notes: list[str] = Field(default_factory=list)
    """Facts that change what the number means (`leakage: ...`, `not_applicable: 50 items`)."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further facts of a defense."""
