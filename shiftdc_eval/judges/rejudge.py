"""Judge the stored answers of a run again, and list where judges disagree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from shiftdc_eval.core.locks import locked
from shiftdc_eval.core.records import JudgeCost
from shiftdc_eval.core.results_folder import find_samples
from shiftdc_eval.judges.derived import DerivedJudge, with_readings
from shiftdc_eval.judges.progress import judged
from shiftdc_eval.judges.samples_file import Answer, add_verdicts, read_samples
from shiftdc_eval.judges.spending import cost_of
from shiftdc_eval.judges.verdict import Judge, Verdict, rubric_hash


@dataclass(frozen=True)
class Outcome:
    """Result of one judge on one samples file."""

    path: Path
    judge: str
    judged: int
    """Answers judged now."""
    kept: int
    """Answers that already had a verdict of this judge."""
    values: dict[str, int]
    """Count of each value among all answers of the file, `unscored` included; scores count as `scored`."""
    cost: JudgeCost = field(default_factory=JudgeCost)
    """Cost of all of this judge's verdicts in the file."""
    skipped: bool = False
    """True for a utility task, which this judge skips."""


@dataclass(frozen=True)
class Disagreement:
    """Two judges of one kind that gave one answer different verdicts."""

    path: Path
    item: str
    repeat: int
    first: tuple[str, str]
    """(judge, verdict)."""
    second: tuple[str, str]


def rejudge(paths: Sequence[Path], judges: Sequence[Judge], tasks: Sequence[str] = ()) -> Iterator[Outcome]:
    """Let every judge judge the stored answers without its verdict; its verdicts are written before the next one's.

    An interrupted LLM or local judge finds its finished verdicts in the cache.

    Raises:
        ConfigError: no samples file, or another judge's verdicts stand under a judge's name.
        RecordError: a samples file is not ours.
        JudgeError: a judge cannot work at all.
    """
    found = find_samples(paths, tasks)
    for judge in with_readings(judges):
        yield from _by_one(found, judge)


def _by_one(paths: Sequence[Path], judge: Judge) -> list[Outcome]:
    every = [read_samples(path) for path in paths]
    files = [file.path for file in every if judge.kind == "score" or not file.is_utility]
    skipped = [Outcome(path, judge.name, 0, 0, {}, skipped=True) for path in paths if path not in files]
    if not files:
        return skipped
    fingerprint = judge.fingerprint
    if not any(file.unjudged(judge.name, fingerprint) for file in every if file.path in files):
        return [*skipped, *(_outcome(path, judge.name, 0) for path in files)]
    # nothing is judged, or paid for, twice where the same command runs twice
    with locked(
        files[0].with_name(f".judge-{fingerprint[:16]}.lock"),
        f"another process judges with {judge.name} in {files[0].parent}; waiting for it",
    ):
        return [*skipped, *_judge_rest(files, judge, fingerprint)]


def _judge_rest(paths: Sequence[Path], judge: Judge, fingerprint: str) -> list[Outcome]:
    todo = [read_samples(path).unjudged(judge.name, fingerprint) for path in paths]
    verdicts = _verdicts(judge, [answer for answers in todo for answer in answers])
    start = 0
    for path, answers in zip(paths, todo, strict=True):
        ours = verdicts[start : start + len(answers)]
        start += len(answers)
        if answers:
            given = {answer.place: verdict for answer, verdict in zip(answers, ours, strict=True)}
            add_verdicts(path, judge.name, fingerprint, rubric_hash(judge), given)
    return [_outcome(path, judge.name, len(answers)) for path, answers in zip(paths, todo, strict=True)]


def _verdicts(judge: Judge, answers: Sequence[Answer]) -> list[Verdict]:
    if not isinstance(judge, DerivedJudge):
        return judged(judge, [answer.item for answer in answers])
    # its sources have just judged: their verdicts stand in the file
    return [
        judge.derive(
            {
                source.name: Verdict(
                    **answer.field.verdicts[source.name].model_dump(exclude={"judge", "rubric"})
                )
                for source in judge.sources
            }
        )
        for answer in answers
    ]


def _outcome(path: Path, name: str, new: int) -> Outcome:
    records = [
        answer.field.verdicts[name] for answer in read_samples(path).answers if name in answer.field.verdicts
    ]
    values = Counter(
        "unscored" if record.value is None else record.value if isinstance(record.value, str) else "scored"
        for record in records
    )
    return Outcome(path, name, new, len(records) - new, dict(sorted(values.items())), cost_of(records))


def disagreements(paths: Sequence[Path], tasks: Sequence[str] = ()) -> Iterator[Disagreement]:
    """Every pair of scored refusal or harm verdicts of one kind on one answer that differ."""
    for path in find_samples(paths, tasks):
        for answer in read_samples(path).answers:
            for (one, first), (other, second) in combinations(sorted(answer.field.verdicts.items()), 2):
                comparable = first.kind == second.kind != "score" and None not in (first.value, second.value)
                if comparable and first.value != second.value:
                    yield Disagreement(path, *answer.key, (one, str(first.value)), (other, str(second.value)))
