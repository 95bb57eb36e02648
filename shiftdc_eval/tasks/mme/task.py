"""MME by the official rule, and by a stricter reading of the answers beside it.

Source: BradyFU/Awesome-MLLM, branch Evaluation, arXiv 2306.13394. The prompt is the unchanged question,
ending in "Please answer yes or no." (lmms-eval's own `mme` replaces that sentence).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from shiftdc_eval.judges.verdict import Judge, Verdict
from shiftdc_eval.tasks.answer_rule import AnswerRule
from shiftdc_eval.tasks.base import BenchmarkTask
from shiftdc_eval.tasks.example import Example, Source
from shiftdc_eval.tasks.metrics import InResultFile, Metric, count_unscored, mean, value_of
from shiftdc_eval.tasks.mme import facts, files, parse
from shiftdc_eval.tasks.mme.scoring import COGNITION, PERCEPTION, SUBTASKS, Answered, subtask_scores, total

logger = logging.getLogger(__name__)


OFFICIAL = AnswerRule("mme_official", parse.official)
STRICT = AnswerRule("mme_strict", parse.strict, version=2)


class MME(BenchmarkTask):
    """`shiftdc_mme`."""

    infos = facts.TASKS
    score: ClassVar[Literal["mean", "percent", "mme"]] = "mme"
    totals: ClassVar[Mapping[str, Sequence[str]]] = {
        "mme_perception": PERCEPTION,
        "mme_cognition": COGNITION,
        "mme_total": SUBTASKS,
    }
    """Name of a total -> the subtasks it sums."""

    def make_judges(self) -> list[Judge]:
        """The two parsers, whatever judges the user names: no other judge scores yes/no questions."""
        return [OFFICIAL, STRICT]

    def load(self) -> Source:
        """See `files.load`."""
        return files.load(self.info.name, self.settings)

    def metrics(self) -> dict[str, Metric]:
        """Totals by both parsers, how answers were read, and the split by subtask."""
        found = {
            f"{name}{suffix}": Metric(partial(self._total, subtasks), True, subtasks)
            for name, subtasks in self.totals.items()
            for suffix in ("", f"/{STRICT.name}")
        }
        return found | {
            "refusal_rate": Metric(mean, False),
            "no_answer_rate": Metric(mean, False),
            "unscored": Metric(count_unscored, False),
            "by_subtask": Metric(self._split, True),
        }

    def metric_values(self, example: Example, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
        """Rows of the totals hold the item id, by which the questions of one image are paired."""
        reading = verdicts[STRICT.name].reason if verdicts[STRICT.name].scored else None
        values: dict[str, Any] = {
            "refusal_rate": None if reading is None else float(reading == "refusal"),
            "no_answer_rate": None if reading is None else float(reading == "other"),
            "unscored": value_of(verdicts[OFFICIAL.name], None),
            "by_subtask": {"item": example.id} | {name: value_of(v, None) for name, v in verdicts.items()},
        }
        for judge, suffix in ((OFFICIAL, ""), (STRICT, f"/{STRICT.name}")):
            row = {"item": example.id, "value": value_of(verdicts[judge.name], None)}
            values |= {f"{name}{suffix}": row for name in self.totals}
        return values

    def _answered(self, rows: Sequence[Mapping[str, Any]], key: str) -> list[Answered]:
        return [
            Answered(self._by_id[item].scenario, self._by_id[item].question, row[key])
            for item, row in self.checked(rows).items()
        ]

    def _total(self, subtasks: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> float | str:
        return total(subtask_scores(self._answered(rows, "value")), subtasks)

    def _split(self, rows: Sequence[Mapping[str, Any]]) -> InResultFile:
        split = {judge.name: subtask_scores(self._answered(rows, judge.name)) for judge in self.judges}
        alone = sum(part["images_without_twin"] for part in split[OFFICIAL.name].values())
        if alone:
            logger.warning(
                "%s: %d images have only one of their two questions here (a limit, or missing data); they count "
                "in accuracy, not in paired accuracy",
                self.info.name,
                alone,
            )
        return InResultFile(split)
