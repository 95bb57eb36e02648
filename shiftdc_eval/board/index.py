"""The board as data: `index.json`. Markdown and page are generated from it alone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from shiftdc_eval.board.model_kinds import Mark
from shiftdc_eval.board.reported import Reported
from shiftdc_eval.core.records import Calibration, JudgeCost, Rate, Record

MAX_UNSCORED = 0.02
"""A cell with a larger share of unscored answers does not rank."""
PARTIAL = "partial"
UNSCORED = "more than 2 % unscored"
ALONE = "nothing to rank against"
NO_BENIGN = "no benign set beside it"
BLANK_CONTROL = "blank-image control"
BLANK = "_blank"
"""End of the names of tasks whose cells are such controls."""
DIGITS = 6
"""Decimals that are stored: more than are shown, so that nothing is rounded twice."""

Metric = Literal["asr", "keyword_asr", "refused", "over_refusal", "unsafe_rate", "score", "harm_score"]


class Group(Record):
    """One measure on one part of the samples."""

    value: float
    low: float | None = None
    """Lower end of the 95 % interval; None for scores."""
    high: float | None = None
    n: int
    """Scored answers."""


class Official(Record):
    """A mean over groups."""

    name: str
    """Name of the mean."""
    value: float | None
    """None when a part is absent: a mean over fewer parts is a different number."""
    absent: list[str]
    """Parts without a scored answer."""
    of: int
    """Number of parts."""


class Contrast(Record):
    """Refused share of the harmful minus that of the benign items of the same pairs."""

    value: float
    low: float
    high: float
    n: int
    """Pairs of which both answers are scored."""
    first_only: int
    """Pairs refused on the harmful item alone."""
    second_only: int
    """Pairs refused on the benign item alone."""
    p: float
    """Exact McNemar; whole questions change sides where several pairs share one."""


class Measure(Record):
    """The result of one judge on one cell."""

    judge: str
    """Judge name and first digits of its identity."""
    models: list[str] = Field(default_factory=list)
    """Models that judged, as their servers name them; empty for judges without one."""
    cost: JudgeCost | None = None
    """Cost of the verdicts; None when not recorded."""
    metric: Metric
    value: float | None
    """Share of the scored answers, or the score; None when nothing was scored."""
    low: float | None
    """Lower end of the 95 % interval."""
    high: float | None
    n: int
    """Scored answers."""
    questions: int
    """Questions of these answers; intervals are clustered by question."""
    unscored: int
    """Answers without a verdict."""
    reasons: dict[str, int] = Field(default_factory=dict)
    """Counts of unscored answers by reason."""
    bound_low: float | None = None
    """The share with every unscored answer counted so that it lowers the share."""
    bound_high: float | None = None
    """The share with every unscored answer counted so that it raises the share."""
    groups: dict[str, dict[str, Group]] = Field(default_factory=dict)
    """Results by topic, scenario, ...; `flag` holds the answers that carry a flag."""
    macro: dict[str, float] = Field(default_factory=dict)
    """Unweighted mean over the groups of each kind."""
    official: list[Official] = Field(default_factory=list)
    """Means over groups, where a benchmark has any besides `value`."""
    contrast: Contrast | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of a refusal judge on a benchmark of pairs."""


class Detection(Record):
    """What a detector's scores say of a cell; bounds are 95 % intervals, clustered by question."""

    above: Rate
    """Share of the answers whose score is above the threshold: detected, or false alarms on a benign task."""
    answers: int
    """Answers with a score."""
    against: list[str] = Field(default_factory=list)
    """Benign tasks that a harmful one is told apart from: itself where it has benign items, else those of its
    benchmark, else all that were measured."""
    benign: int = 0
    """Their answers."""
    false_alarms: Rate | None = None
    """Share of these above the threshold; None without a benign task."""
    auroc: Rate | None = None
    auprc: Rate | None = None
    """Average precision; depends on the numbers of both."""


class Agreement(Record):
    """Agreement of two judges of one cell on which answers fail."""

    first: str
    second: str
    n: int
    """Answers that both scored."""
    agreement: float
    kappa: float | None
    """Cohen's kappa; None where it is undefined."""


class IndexCell(Record):
    """One cell as the board shows it."""

    path: str
    """Path below `cells/`."""
    task: str
    version: str
    revision: str
    benign: bool
    model: str
    model_revision: str
    model_note: str
    mark: Mark
    """`toy` or `small research model`: never compared with models of another kind."""
    defense: str
    """Name, with the settings that distinguish it from its siblings."""
    defense_name: str
    settings: dict[str, JsonValue]
    dtype: str
    attention: str
    """Attention kernel; empty when unknown."""
    engine: str
    """`fast` or `vllm` where that engine answered in 16 bit, which can change an answer; else empty."""
    batch_sizes: list[int]
    """Recorded batch sizes of the runs; in 16 bit they can change an answer."""
    seed: int
    generation: dict[str, JsonValue]
    """Resolved generation settings."""
    answered: int
    """Items answered."""
    items: int
    """Items the task has."""
    answers: int
    """Answers, repeats included."""
    ablation: str
    not_ranked: list[str]
    """Why it does not rank, whatever the judge; empty when it may."""
    recorded: bool
    """False when a run record is missing and less is known."""
    notes: list[str]
    """Facts that change what the numbers mean."""
    hardware: str
    seconds: float | None
    """Seconds per answer."""
    relative: float | None
    """Seconds relative to `none` on the same task, model and hardware."""
    tokens: Annotated[tuple[float, float], Field(strict=False)] | None
    """Prompt tokens and generated tokens per answer; None when unknown."""
    price: float | None
    """Cost of the answers in USD; None when unknown."""
    command: str
    """The command that reproduces it."""
    system: str
    """Identifies this model with this defense over all tasks and seeds."""
    reported: dict[str, list[str]] = Field(default_factory=dict)
    """Numbers that papers print for this model, task and defense, with the paper's name, by metric."""
    measures: list[Measure]
    agreement: list[Agreement] = Field(default_factory=list)
    detection: Detection | None = None
    """What the scores of a detector or a gate say; None without one."""

    @property
    def twin_of(self) -> str:
        """The task that this one asks with blank images; empty for a task of its own."""
        return self.task.removesuffix(BLANK) if BLANK_CONTROL in self.not_ranked else ""

    @property
    def task_title(self) -> str:
        """The task as readers are shown it."""
        return f"{self.twin_of}, blank images" if self.twin_of else self.task


class Pair(Record):
    """A paired difference, first minus second, over the answers scored in both."""

    first: int
    """Position in the index's cells."""
    second: int
    value: float
    low: float
    high: float
    n: int
    size: float
    """Effective number of answers; fewer than `n` where a question has several."""
    first_only: int
    second_only: int
    p: float
    p_holm: float | None
    """Holm-adjusted over the ranked pairs of the comparison; None when one entry does not rank."""
    detectable: float
    """Smallest difference found with 80 % power; for ranked pairs at the level where Holm's procedure stopped."""


class Entry(Record):
    """One cell in a comparison."""

    cell: int
    """Position in the index's cells."""
    measure: int
    """Position in the cell's measures."""
    rank: Annotated[tuple[int, int], Field(strict=False)] | None
    """Best and worst rank that the verdicts allow; None when it does not rank."""
    not_ranked: list[str]
    """Reasons for having no rank."""
    also: list[int] = Field(default_factory=list)
    """The cells of its other seeds."""
    pooled: Measure | None = None
    """The measure over all seeds; None for a single seed."""


class Comparison(Record):
    """Defenses on one task, version, model, generation, dtype and kernel, by one judge; seeds are pooled."""

    task: str
    version: str
    revision: str
    model: str
    judge: str
    metric: Metric
    seeds: list[int]
    """Seeds of the cells; answers of several seeds to one item count as repeats of it."""
    entries: list[Entry]
    pairs: list[Pair]
    power: str
    """Which pairs are not separable; empty when all are."""


class Index(Record):
    """The whole board."""

    index_version: Literal[1] = 1
    cells: list[IndexCell]
    comparisons: list[Comparison]
    calibrations: list[Calibration] = Field(default_factory=list)
    """Held-out agreement of judges with human labels; a judge without an entry has none."""
    reported: list[Reported]
    """Numbers from papers: in a section of their own, never ranked with measured numbers."""


def too_many_unscored(measure: Measure) -> bool:
    """True when the unscored share forbids ranking."""
    total = measure.n + measure.unscored
    return not measure.n or measure.unscored / total > MAX_UNSCORED


def lower_is_better(metric: Metric) -> bool:
    """True for rates of failure; False for utility scores and for refused shares of harmful requests."""
    return metric not in ("score", "refused")
