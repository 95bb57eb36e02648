"""Counts and cost of a run, summed over all processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch.distributed

from shiftdc_eval.core.records import Cost, TaskRecord
from shiftdc_eval.defenses.base import DETECTOR_SCORE, REFUSED_BY_DETECTOR, SENT_ON
from shiftdc_eval.plugin import lmms_tasks
from shiftdc_eval.plugin.requests import Sample


@dataclass
class Tally:
    """Answer counts and cost of one process."""

    hardware: str = ""
    """Hardware of this process; only timings measured on it count."""
    seconds: float = 0.0
    timed: int = 0
    """Number of timed answers."""
    reused: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    price: float = 0.0
    """USD of the answers whose price is known."""
    unpriced: int = 0
    """Answers whose price is not."""
    captions_made: int = 0
    captions_reused: int = 0
    leaked: int = 0
    """Items in the direction's contrast set."""
    answered: Counter[str] = field(default_factory=Counter)
    """Answers by task."""
    spent: dict[str, Counter[str]] = field(default_factory=dict)
    """Seconds, tokens and reused answers, by task."""
    notes: Counter[str] = field(default_factory=Counter)
    """Answers by note."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """Requests that could not be answered, by reason."""
    scores: dict[str, list[tuple[float, bool]]] = field(default_factory=dict)
    """Scores of a detector or a gate, by task, each with whether it exceeded the threshold."""
    edits: Counter[int] = field(default_factory=Counter)
    """Requests in which a decoder layer was edited, by layer, where the engine counts them."""

    def count(self, record: Mapping[str, Any], *, reused: bool) -> None:
        """Add one answer's journal record."""
        timed = bool(self.hardware) and record.get("hardware") == self.hardware
        seconds = record["seconds"] if timed else 0.0
        self.seconds += seconds
        self.timed += timed
        self.reused += reused
        self.tokens_in += record["tokens_in"]
        self.tokens_out += record["tokens_out"]
        price = record.get("price")
        self.price += price or 0.0
        self.unpriced += price is None
        self.answered[record["task"]] += 1
        spent = self.spent.setdefault(record["task"], Counter())
        spent.update(
            {name: record[name] for name in ("tokens_in", "tokens_out")}
            | {"seconds": seconds, "timed": int(timed), "reused": int(reused)}
            | {"price": price or 0.0, "unpriced": int(price is None)}
        )
        self.notes.update(record["notes"])
        score = record.get("extra", {}).get(DETECTOR_SCORE)
        if score is not None:
            above = bool({REFUSED_BY_DETECTOR, SENT_ON} & set(record["notes"]))
            self.scores.setdefault(record["task"], []).append((score, above))
        if record["text"] is None:
            self.unanswered[record.get("unanswered", "")] += 1

    def nothing_answered(self) -> str:
        """The commonest reason where no request could be answered; empty where one was."""
        if not self.answered or self.unanswered.total() < self.answered.total():
            return ""
        return self.unanswered.most_common(1)[0][0]

    def __add__(self, other: Tally) -> Tally:
        names = [name for name in self.__dataclass_fields__ if name not in ("spent", "scores", "hardware")]
        spent = {
            task: self.spent.get(task, Counter()) + other.spent.get(task, Counter())
            for task in {**self.spent, **other.spent}
        }
        scores = {
            task: self.scores.get(task, []) + other.scores.get(task, [])
            for task in {**self.scores, **other.scores}
        }
        return Tally(
            **{name: getattr(self, name) + getattr(other, name) for name in names}, spent=spent, scores=scores
        )

    def detections(self) -> dict[str, dict[str, float]]:
        """By task: answers with a score, the share above the threshold, the lowest, median and highest score."""
        found = {}
        for task, scored in sorted(self.scores.items()):
            values = [score for score, _ in scored]
            found[task] = {
                "answers": len(values),
                "share_above": round(sum(above for _, above in scored) / len(values), 6),
                "lowest": min(values),
                "median": median(values),
                "highest": max(values),
            }
        return found

    def task_cost(self, task: str) -> Cost:
        """Cost of one task's answers; of several tasks' captions it is not known which are whose."""
        spent = self.spent.get(task, Counter())
        alone = set(self.answered) == {task}
        return Cost(
            seconds=round(float(spent["seconds"]), 3),
            samples=self.answered[task],
            timed=spent["timed"],
            reused=spent["reused"],
            tokens_in=spent["tokens_in"],
            tokens_out=spent["tokens_out"],
            captions_made=self.captions_made if alone else None,
            captions_reused=self.captions_reused if alone else None,
            price=None if spent["unpriced"] else round(float(spent["price"]), 9),
        )

    def cost(self) -> Cost:
        """The cost for the run record."""
        return Cost(
            seconds=round(self.seconds, 3),
            samples=sum(self.answered.values()),
            timed=self.timed,
            reused=self.reused,
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            captions_made=self.captions_made,
            captions_reused=self.captions_reused,
            price=None if self.unpriced or not self.answered else round(self.price, 9),
        )

    def sentence(self) -> str:
        """The cost in one line."""
        cost = self.cost()
        return (
            f"{cost.samples} samples ({cost.reused} reused) in {cost.seconds:.1f} s, {cost.tokens_in} prompt and "
            f"{cost.tokens_out} answer tokens, {cost.captions_made} captions or first answers made, "
            f"{cost.captions_reused} reused" + ("" if cost.price is None else f", {cost.price:.4f} USD")
        )


def gathered(run_id: str, tally: Tally) -> tuple[str, Tally]:
    """The first process's run id and the sum of all processes' tallies."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return run_id, tally
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, (run_id, tally))
    total = Tally()
    for _, one in everyone:
        total += one
    return str(everyone[0][0]), total


def task_records(samples: Sequence[Sample], tasks: Mapping[str, Any], tally: Tally) -> list[TaskRecord]:
    """One record a task.

    Args:
        samples: the samples of this process.
        tasks: task name -> lmms-eval task object; ours tell more about themselves with `facts()`.
        tally: answers and cost by task, over all processes.
    """
    records = []
    answered = tally.answered
    for name, task in sorted(tasks.items()):
        first = next(sample for sample in samples if sample.task == name)
        facts = task.facts() if hasattr(task, "facts") else lmms_tasks.facts(task)
        records.append(
            TaskRecord(
                name=name,
                version=str(facts.get("version", getattr(task, "VERSION", ""))),
                dataset=str(
                    facts.get("dataset", getattr(getattr(task, "config", None), "dataset_path", "") or "")
                ),
                revision=str(facts.get("revision", "")),
                benign=bool(facts.get("benign", False)),
                utility=facts.get("utility"),
                score=facts.get("score", "mean"),
                items=int(facts.get("items", answered[name])),
                answered=answered[name],
                generation=first.settings.key(),
                notes=[*first.notes, *facts.get("notes", [])],
                cost=tally.task_cost(name),
            )
        )
    return records
