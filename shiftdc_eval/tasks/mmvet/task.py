"""MM-Vet: the bare question as prompt, graded by a judge model.

Source: yuweihao/MM-Vet @acde843 (data CC BY-NC 4.0), arXiv 2308.02490. The grader is the judge `llm_mmvet`
(official prompt and parsing; its setting `runs` repeats the grading and averages). Without one the answers
are stored unscored, and the reason names the command that grades them later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from shiftdc_eval.judges.verdict import Judge, Verdict
from shiftdc_eval.tasks.base import BenchmarkTask
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.judging import StandIn, graders
from shiftdc_eval.tasks.metrics import (
    NOTHING_SCORED,
    InResultFile,
    Metric,
    count_unscored,
    mean,
    split_means,
    value_of,
)
from shiftdc_eval.tasks.mmvet import facts, files

NOT_GRADED = (
    "no grader was named; grade the stored answers with "
    "`shiftdc-eval judge`, or run with SHIFTDC_JUDGES=llm_mmvet:model=..."
)


class MMVet(BenchmarkTask):
    """`shiftdc_mmvet`."""

    infos = facts.TASKS
    score: ClassVar[Literal["mean", "percent", "mme"]] = "percent"

    def make_judges(self) -> list[Judge]:
        """The graders among the judges named by the user, else a stand-in."""
        return graders(self.named_judges) or [StandIn("llm_mmvet", "score", NOT_GRADED)]

    def load(self) -> Source:
        """See `files.load`."""
        return files.load(self.info.name, self.settings)

    def suffix(self, judge: Judge) -> str:
        """Suffix of a grader's columns: empty for the first, else `/` and its name."""
        return "" if judge is self.judges[0] else f"/{judge.name}"

    def metrics(self) -> dict[str, Metric]:
        """Score (0 to 100) of every grader, and its splits by capability and by combination."""
        found: dict[str, Metric] = {}
        for judge in self.judges:
            found[f"mmvet_score{self.suffix(judge)}"] = Metric(percent, True)
            found[f"unscored{self.suffix(judge)}"] = Metric(count_unscored, False)
        return found | {"by_capability": Metric(self._by_capability, True)}

    def metric_values(self, example: Example, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
        """The grade by each grader, 0 to 1; None where the answer is unscored."""
        row: dict[str, Any] = {"item": example.id}
        values: dict[str, Any] = {}
        for judge in self.judges:
            value = value_of(verdicts[judge.name], None)
            values[f"mmvet_score{self.suffix(judge)}"] = row[judge.name] = value
            values[f"unscored{self.suffix(judge)}"] = None if value is None else 0.0
        return values | {"by_capability": row}

    def _by_capability(self, rows: Sequence[Mapping[str, Any]]) -> InResultFile:
        by_item = self.checked(rows)
        found: dict[str, Any] = {}
        for judge in self.judges:
            grades = {item: row[judge.name] for item, row in by_item.items()}
            values = {item: None if grade is None else 100 * grade for item, grade in grades.items()}
            parts: dict[str, Any] = {}
            for name in files.CAPABILITIES:
                having = {i: name for i in values if f"capability_{name}" in self._by_id[i].groups}
                parts |= split_means(values, having)
            combinations = {item: self._by_id[item].groups["combination"] for item in values}
            found[judge.name] = {"capability": parts, "combination": split_means(values, combinations)}
        return InResultFile(found)


def percent(rows: Sequence[float | None]) -> float | str:
    """Mean x 100 over the graded rows; `N/A` when none is."""
    value = mean(rows)
    return NOTHING_SCORED if isinstance(value, str) else 100 * value
