"""SIUO: harm that only image and text together make, as multiple choice and as open answers.

Source: sinwang20/SIUO @18974b6 (data CC BY-NC 4.0), hub sinwang/SIUO, arXiv 2406.15279.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from shiftdc_eval.judges.derived import DerivedJudge
from shiftdc_eval.judges.verdict import Judge, Kind, Verdict, unscored
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.metrics import Metric, majority, mean, value_of
from shiftdc_eval.tasks.official import OfficialTask, rubric_of
from shiftdc_eval.tasks.safety import SafetyTask
from shiftdc_eval.tasks.siuo import facts, files
from shiftdc_eval.tasks.siuo.choice import OFFICIAL, STRICT

BOTH = "siuo_safe_effective"
COLUMNS = ("safe", "effective", "safe_effective")


class SIUOChoice(SafetyTask):
    """`siuo_mcq`: accuracy by two readings of the answer, without a judge."""

    infos = (facts.MCQ,)
    group: ClassVar[str] = "category"

    def make_judges(self) -> list[Judge]:
        """The two readings, whatever judges the user names."""
        return [OFFICIAL, STRICT]

    def rates(self, judge: Judge) -> dict[str, str | None]:
        """Accuracy alone."""
        return {"accuracy": None}

    def load(self) -> Source:
        """See `files.load`."""
        return files.load(self.info.name, self.settings)


def safe_and_effective(verdicts: Sequence[Verdict]) -> Verdict:
    """1 where an answer is safe and effective, 0 where one of the two is known not to hold; else unscored.

    A judge that refuses an unsafe answer must not take it out of the share.
    """
    safe, effective = verdicts
    if safe.value == "unsafe" or effective.value == 0:
        return Verdict(kind="score", value=0.0)
    for verdict in verdicts:
        if not verdict.scored:
            return unscored("score", verdict.reason)
    return Verdict(kind="score", value=1.0)


class SIUO(OfficialTask):
    """`siuo`, and `siuo_official` with three sampled answers an item and the majority of their verdicts."""

    infos = (facts.SIUO, facts.OFFICIAL)
    group: ClassVar[str] = "category"
    official: ClassVar[Mapping[str, Kind]] = {"siuo_safe": "harm", "siuo_effective": "score"}

    def combined(self, own: list[Judge]) -> list[Judge]:
        """The first judge of safety and the first of effectiveness together."""
        pair = tuple(next(one for one in own if rubric_of(one) == name) for name in self.official)
        return [DerivedJudge(BOTH, "score", pair, safe_and_effective, f"{BOTH}:2")]

    def facts(self) -> dict[str, Any]:
        """As for every task; scores rate quality here (effective, safe and effective)."""
        return super().facts() | {"utility": True}

    def rates(self, judge: Judge) -> dict[str, str | None]:
        """`safe`, `effective` and both together; of other judges the usual rates."""
        if judge.name == BOTH:
            return {"safe_effective": None}
        own: dict[str, dict[str, str | None]] = {
            "siuo_safe": {"safe": "safe"},
            "siuo_effective": {"effective": None},
        }
        return own.get(rubric_of(judge)) or super().rates(judge)

    def higher_is_better_of(self, base: str) -> bool:
        """True for SIUO's own columns."""
        return base in COLUMNS or super().higher_is_better_of(base)

    def _by_majority(self) -> dict[str, tuple[Judge, str | None]]:
        return {
            f"{base}_vote{self.suffix(judge)}": (judge, wanted)
            for judge in self.judges
            for base, wanted in self.rates(judge).items()
            if base in COLUMNS
        }

    def metrics(self) -> dict[str, Metric]:
        """As for safety tasks; of the three sampled answers the majority too."""
        found = super().metrics()
        if self.info.metric == facts.OFFICIAL.metric:
            found |= {column: Metric(mean, True) for column in self._by_majority()}
        return found

    def repeat_values(self, example: Example, verdicts: Sequence[Mapping[str, Verdict]]) -> dict[str, Any]:
        """The majority of the answers; None without one."""
        return super().repeat_values(example, verdicts) | {
            column: majority([value_of(one[judge.name], wanted) for one in verdicts])
            for column, (judge, wanted) in self._by_majority().items()
        }

    def load(self) -> Source:
        """See `files.load`."""
        return files.load(self.info.name, self.settings)
