"""The board as data: `index.json`. Markdown and page are generated from it alone."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

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
LEAKAGE = "calibration items were evaluated"
NOT_COMPARED = (PARTIAL, LEAKAGE)
"""Reasons of a cell for which the overview does not compare its row; a control says so by its kind."""
CLASSES = (0.1, 0.3)
"""Upper ends of the classes of over-refusal on the worst benign set; the last class has none."""
DIGITS = 6
"""Decimals that are stored: more than are shown, so that nothing is rounded twice."""

Kind = Literal["none", "defense", "detector", "control", "ablation"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of rows, in the order of an overview."""
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
    subject: str
    """Identifies this model and how it was run, over all tasks, defenses and seeds."""
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
    not_ranked: list[str]
    """Reasons for being outside the Holm family."""
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


class Pooled(Record):
    """One number over the answers of several tasks, with its 95 % interval, clustered by question."""

    value: float
    low: float
    high: float
    n: int
    """Scored answers."""
    best: bool = False
    """Not separable from the lowest of its class."""


class OverviewRow(Record):
    """One defense of an overview; seeds are pooled."""

    cells: list[int]
    """Positions in the index's cells, one for each task and seed."""
    defense: str
    kind: Kind
    reasons: list[str]
    """Why it is not compared; empty where it is, if it is a defense or `none`."""
    harm: Pooled | None
    """Harmful requests not refused."""
    over_refusal: Pooled | None
    """Refused benign requests."""
    worst: Annotated[tuple[str, float], Field(strict=False)] | None
    """The benign set of the highest over-refusal, and its value: this decides the class."""
    utility_lost: Pooled | None
    """Mean score of `none` minus this one's, from 0 to 1."""
    time: float | None
    """Seconds divided by those of `none`, over the tasks where both are timed."""
    unscored: int
    """Answers without a verdict in these numbers."""
    answers: int
    """Answers of these numbers."""
    draws: int = 1
    """Random directions that it stands for."""
    front: bool = False
    """No other row is as low in harm not refused and in over-refusal, and lower in one of them."""

    @property
    def compared(self) -> bool:
        """Whether it is compared with others."""
        known = self.harm is not None and self.over_refusal is not None
        return known and not self.reasons and self.kind in ("none", "defense")

    @property
    def level(self) -> int | None:
        """Position of its class; None where no benign set was answered."""
        return None if self.worst is None else sum(self.worst[1] > end for end in CLASSES)


class Overview(Record):
    """The defenses of one model, run in one way."""

    model: str
    mark: Mark
    subject: str
    judge: str
    """The refusal judge of harm and over-refusal; empty where no answer was judged so."""
    text_only: bool
    """True where no harmful request has an image: harm is then over requests without one."""
    harm: dict[str, int]
    """Answers of `none` by task, or of the row with most answers."""
    benign: dict[str, int]
    utility: dict[str, int]
    rows: list[OverviewRow]


class Index(Record):
    """The whole board."""

    index_version: Literal[3] = 3
    cells: list[IndexCell]
    overviews: list[Overview] = Field(default_factory=list)
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
