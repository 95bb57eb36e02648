"""Safety tasks whose benchmark has a judge model of its own, with the refusal rate by keywords beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from shiftdc_eval.core.environment import setting
from shiftdc_eval.judges.derived import DerivedJudge, with_readings
from shiftdc_eval.judges.language import expected
from shiftdc_eval.judges.registry import JUDGES_VARIABLE, get_judge, in_languages, judges_for
from shiftdc_eval.judges.verdict import Judge, Kind
from shiftdc_eval.tasks.judging import StandIn, needs_reference, of_one_benchmark
from shiftdc_eval.tasks.safety import SafetyTask

NOT_NAMED = (
    "the benchmark's judge was not named; run the same command with --judge '{judge}:model=...': finished answers "
    "are not made again"
)


class OfficialTask(SafetyTask):
    """Judged by the benchmark's rubrics; where no judge with one of them is named, its column is unscored."""

    official: ClassVar[Mapping[str, Kind]] = {}
    """Rubric of the benchmark -> what it judges."""

    def make_judges(self) -> list[Judge]:
        """The official judges first, then others that the user or the yaml names, and keyword judges."""
        named = judges_for(self.named_judges) if self.named_judges or setting(JUDGES_VARIABLE) else []
        own = [judge for judge in named if rubric_of(judge) in self.official]
        asked = {rubric_of(judge) for judge in own}
        absent = [
            StandIn(f"llm_{rubric}", kind, NOT_NAMED.format(judge=f"llm_{rubric}"))
            for rubric, kind in self.official.items()
            if rubric not in asked
        ]
        own = sorted([*own, *absent], key=lambda judge: list(self.official).index(rubric_of(judge)))
        rest = [judge for judge in named if rubric_of(judge) not in self.official]
        others = [judge for judge in rest if not (needs_reference(judge) or of_one_benchmark(judge))]
        if not any(judge.kind == "refusal" for judge in others):
            words = in_languages(self.default_judges, self.languages or expected())
            others += [get_judge(name) for name in words]
        return [*with_readings(own), *self.combined(own), *others]

    def combined(self, own: list[Judge]) -> list[Judge]:
        """Judges made of several of the official ones."""
        return []

    def suffix(self, judge: Judge) -> str:
        """As in `SafetyTask`, but among the judges with the same columns."""
        columns = set(self.rates(judge))
        first = next(other for other in self.judges if columns & set(self.rates(other)))
        return "" if judge is first else f"/{judge.name}"


def rubric_of(judge: Judge) -> str:
    """Name of a judge's rubric, of that which a stand-in or a reading is for; empty without one."""
    if isinstance(judge, DerivedJudge):
        return rubric_of(judge.sources[0])
    if isinstance(judge, StandIn):
        return judge.name.removeprefix("llm_")
    return str(getattr(getattr(judge, "rubric", None), "name", ""))
