"""Passes answers to the judges and returns their verdicts."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shiftdc_eval.core.api.endpoint import redact
from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.errors import JudgeError, ShiftDCError
from shiftdc_eval.core.reasoning import Tags
from shiftdc_eval.core.records import VerdictRecord
from shiftdc_eval.core.run_ids import Made
from shiftdc_eval.judges.progress import judged
from shiftdc_eval.judges.registry import JUDGES_VARIABLE, judges_for
from shiftdc_eval.judges.spending import cost_of
from shiftdc_eval.judges.verdict import Item, Judge, Kind, Verdict, unscored
from shiftdc_eval.tasks.example import Example
from shiftdc_eval.tasks.metrics import InResultFile

logger = logging.getLogger(__name__)

FAILED = "judge failed"
"""How the reason of a verdict begins where the judge itself failed, and not this item alone."""


@dataclass(frozen=True)
class StandIn:
    """Used when a benchmark's judge is not named: leaves every answer unscored, and the reason says how to judge it."""

    name: str
    kind: Kind
    reason: str

    @property
    def fingerprint(self) -> str:
        """sha256 that no judge has."""
        return hashlib.sha256(f"{self.name}: not named".encode()).hexdigest()

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """Unscored, every one."""
        return [unscored(self.kind, self.reason)] * len(items)


REQUEST_FAILED = "[LMMS_EVAL_REQUEST_FAILED"
"""How lmms-eval 0.7.3 begins the text that it stores as the answer to a request that failed."""


class Answer(str):
    """A response as lmms-eval carries it from `apply_filters` to `process_results`."""

    repeat: int = 0
    """Index among the repeats of its request."""
    failed: bool = False
    """True when there is no response; the text is empty then."""
    made: Made = Made()
    """What the model says of it."""

    @property
    def response(self) -> str | None:
        """The text, or None when there is no response."""
        return None if self.failed else str(self)


def make_answer(response: str | None, repeat: int, made: Made = Made()) -> Answer:  # noqa: B008
    """An Answer; None, and what lmms-eval's API models say of a request that failed, mean that there is none."""
    if response is not None and response.startswith(REQUEST_FAILED):
        made = Made(f"the model's request failed: {response.partition(']')[0]}]", made.flags)
    failed = response is None or bool(made.unanswered)
    answer = Answer("" if failed else response)
    answer.repeat, answer.failed, answer.made = repeat, failed, made
    return answer


def judge_item(example: Example, answer: Answer, tags: Tags | None = None) -> Item:
    """An answered example as judges see it, without the reasoning enclosed in `tags` (None: all known forms)."""
    return Item(
        id=example.id,
        request=example.request,
        response=answer.response,
        unanswered=answer.made.unanswered,
        begun=answer.made.begun,
        prompt=example.prompt,
        scenario=example.scenario,
        reference=example.reference,
        image=example.image,
        context=example.context,
        reasoning_tags=tags,
    )


def ask(judge: Judge, items: Sequence[Item]) -> list[Verdict]:
    """One verdict an item; any failure of the judge leaves its items unscored, with the reason."""
    try:
        verdicts = judged(judge, items)
    except Exception as error:  # a boundary: a failing judge must not lose answers that took hours
        # a library's error may quote the request and with it the key
        said = redact(f"{type(error).__name__}: {error}")
        logger.warning("judge %s failed, its items are unscored: %s", judge.name, said)
        return [unscored(judge.kind, f"{FAILED}: {said}")] * len(items)
    if len(verdicts) != len(items):
        logger.warning("judge %s gave %d verdicts for %d items", judge.name, len(verdicts), len(items))
        return [unscored(judge.kind, f"judge gave {len(verdicts)} verdicts for {len(items)} items")] * len(
            items
        )
    return verdicts


def fingerprints(judges: Sequence[Judge]) -> dict[str, str]:
    """Fingerprint by judge name, taken before an answer is generated.

    Raises:
        JudgeError: a judge cannot work (no such model); raised before hours are spent on answers.
        ConfigError: a judge's settings do not fit.
    """
    found = {}
    for judge in judges:
        try:
            found[judge.name] = judge.fingerprint
        except ShiftDCError:
            raise
        except Exception as error:  # a boundary: any error of a judge's libraries becomes one line
            reason = redact((str(error).strip() or "no reason given").splitlines()[0])
            raise JudgeError(f"judge {judge.name} cannot work: {type(error).__name__}: {reason}") from error
    return found


def judging_cost(rows: Sequence[Mapping[str, VerdictRecord]]) -> InResultFile:
    """Every judge's identity, verdicts and cost over the rows of a task."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        records = [row[name] for row in rows if name in row]
        models = sorted({record.model for record in records if record.model})
        found[name] = {
            "judge": records[0].judge,
            "rubric": records[0].rubric,
            "models": models,
            "verdicts": len(records),
            "unscored": sum(record.value is None for record in records),
            "failed": next((record.reason for record in records if record.reason.startswith(FAILED)), ""),
            **cost_of(records).model_dump(),
        }
    return InResultFile(found)


def count_reasoning(rows: Sequence[Sequence[str]]) -> InResultFile:
    """How many answers had each kind of reasoning taken off, by opening tag."""
    return InResultFile(Counter(tag for row in rows for tag in row))


def graders(named: Sequence[str]) -> list[Judge]:
    """Graders that need a reference, among the judges that the task or the user names; none where nobody names one."""
    chosen = judges_for(named) if named or setting(JUDGES_VARIABLE) else []
    return [judge for judge in chosen if needs_reference(judge) and not of_one_benchmark(judge)]


def needs_reference(judge: Judge) -> bool:
    """True for graders that compare with a reference answer, such as MM-Vet's."""
    return "reference" in getattr(getattr(judge, "rubric", None), "needs", ())


def of_one_benchmark(judge: Judge) -> bool:
    """True for judges by a rubric that is for its own benchmark alone; other tasks leave them out."""
    return bool(getattr(getattr(judge, "rubric", None), "benchmark_only", False))
