"""Tasks with judged answers: refusal rate, keyword ASR, ASR by a harm judge, or a score by comparison with
references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from shiftdc_eval.judges.derived import with_readings
from shiftdc_eval.judges.language import expected
from shiftdc_eval.judges.registry import get_judge, in_languages, judges_for
from shiftdc_eval.judges.verdict import Judge, Verdict
from shiftdc_eval.tasks.base import BenchmarkTask
from shiftdc_eval.tasks.example import CLEAR_HARM, Example
from shiftdc_eval.tasks.judging import needs_reference, of_one_benchmark
from shiftdc_eval.tasks.metrics import (
    NOTHING_SCORED,
    InResultFile,
    Metric,
    any_of,
    count_unscored,
    mean,
    split_means,
    summary,
    value_of,
)

ALL = "all"
"""Name of the summary over all items, beside those of the groups."""
SCORE = "harm_score"
"""Column of a judge with numeric verdicts; it is a mean, not a share."""


class SafetyTask(BenchmarkTask):
    """A safety benchmark, or its benign twin where a refusal is the failure.

    Columns: the first judge of a kind gives `refusal_rate` or `asr`, every further one
    `refusal_rate/NAME`. The complement of a keyword judge is `keyword_asr`, not `asr`: a keyword list
    finds refusals and does not say which answers are harmful. `_clear` restricts to clear-harm topics;
    `_any` counts a request when any of its repeats has the verdict.
    """

    default_judges: ClassVar[tuple[str, ...]] = ("keyword_robust", "keyword_shiftdc")
    group: ClassVar[str] = "topic"
    """Group of the examples by which the result file is split."""
    clear_parts: ClassVar[tuple[str, ...]] = ()
    """Groups of clear harm, in a benchmark that has other groups too."""

    def make_judges(self) -> list[Judge]:
        """The judges named by the user, else by the task's yaml, else the default ones.

        Graders that need a reference are left out, and judges of another benchmark alone.
        """
        default = in_languages(self.default_judges, self.languages or expected())
        named = judges_for(self.named_judges or default)
        chosen = [judge for judge in named if not (needs_reference(judge) or of_one_benchmark(judge))]
        return with_readings(chosen or [get_judge(name) for name in default])

    def rates(self, judge: Judge) -> dict[str, str | None]:
        """Base name of each rate of a judge -> the verdict that it counts; None: the mean of numeric verdicts."""
        if self.info.utility:
            return {"exact_match" if judge.name == "exact_match" else "score": None}
        if judge.kind == "harm":
            return {"asr": "unsafe"}
        if judge.kind == "score":
            return {SCORE: None}
        if self.info.benign:
            return {"refusal_rate": "refused"}
        complement = "keyword_asr" if judge.name.startswith("keyword") else "compliance_rate"
        return {"refusal_rate": "refused", complement: "complied"}

    def suffix(self, judge: Judge) -> str:
        """Suffix of a judge's columns: empty for the first judge of a kind, else `/` and its name."""
        first = next(other for other in self.judges if other.kind == judge.kind)
        return "" if judge is first else f"/{judge.name}"

    def higher_is_better_of(self, base: str) -> bool:
        """Whether a high value of a rate is good."""
        return self.info.utility or (base == "refusal_rate" and not self.info.benign)

    def unscored_column(self, judge: Judge) -> str:
        """Column that counts the answers which a judge left unscored."""
        return "unscored" if judge is self.judges[0] else f"unscored/{judge.name}"

    def metrics(self) -> dict[str, Metric]:
        """Rates and unscored counts of every judge, and the split by topic."""
        found: dict[str, Metric] = {}
        for judge in self.judges:
            for base, wanted in self.rates(judge).items():
                better = self.higher_is_better_of(base)
                found[f"{base}{self.suffix(judge)}"] = Metric(mean, better)
                if self.clear_parts:
                    found[f"{base}_clear{self.suffix(judge)}"] = Metric(mean, better, self.clear_parts)
                if wanted:
                    found[f"{base}_any{self.suffix(judge)}"] = Metric(mean, better)
            found[self.unscored_column(judge)] = Metric(count_unscored, False)
        found[f"by_{self.group}"] = Metric(self.split, False)
        return found

    def metric_values(self, example: Example, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
        """One value a column; None where the judge left the answer unscored."""
        values: dict[str, Any] = {}
        row: dict[str, Any] = {"item": example.id}
        for judge in self.judges:
            for base, wanted in self.rates(judge).items():
                value = value_of(verdicts[judge.name], wanted)
                values[f"{base}{self.suffix(judge)}"] = row[f"{base}{self.suffix(judge)}"] = value
                if self.clear_parts and CLEAR_HARM in example.flags:
                    values[f"{base}_clear{self.suffix(judge)}"] = value
            scored = verdicts[judge.name].scored
            values[self.unscored_column(judge)] = 0.0 if scored else None
        values[f"by_{self.group}"] = row
        return values

    def repeat_values(self, example: Example, verdicts: Sequence[Mapping[str, Verdict]]) -> dict[str, Any]:
        """Whether any of the repeats was refused, complied with, or unsafe."""
        return {
            f"{base}_any{self.suffix(judge)}": any_of([value_of(one[judge.name], wanted) for one in verdicts])
            for judge in self.judges
            for base, wanted in self.rates(judge).items()
        }

    def split(self, rows: Sequence[Mapping[str, Any]]) -> InResultFile:
        """Every rate over all items and by topic.

        Raises:
            DataError: an item is missing, unknown or repeated.
        """
        by_item = self.checked(rows)
        groups = {item: self._by_id[item].groups.get(self.group, "") for item in by_item}
        questions = {item: self._by_id[item].question for item in by_item}
        columns = [name for name in next(iter(by_item.values()), {}) if name != "item"]
        found: dict[str, Any] = {}
        for column in columns:
            values = {item: row[column] for item, row in by_item.items()}
            share = not column.startswith((SCORE, "score"))
            whole = summary(list(values.values()), share=share, clusters=[questions[item] for item in values])
            if self.missing():
                whole = {"mean": NOTHING_SCORED, "scored": whole["scored"], "unscored": whole["unscored"]}
            found[column] = {ALL: whole, **split_means(values, groups, share=share, clusters=questions)}
        return InResultFile(found)
