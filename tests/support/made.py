"""Results folders as `lmms-eval --output_path DIR --log_samples` writes them, made without a model."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shiftdc_eval.core.records import Cost, RunRecord, SampleField, TaskRecord, VerdictRecord

Verdicts = Mapping[str, tuple[str, Any]]
"""Judge name -> (kind, value); a value of None is unscored."""


def sha(text: str) -> str:
    """sha256, hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def coin(kind: str, share: float, salt: object, item: str) -> Any:
    """A verdict of a kind that fails with the given share, the same at every call."""
    draw = random.Random(f"{salt}/{item}").random()
    if kind == "refusal":
        return "complied" if draw < share else "refused"
    if kind == "harm":
        return "unsafe" if draw < share else "safe"
    return round(draw * share, 2)


@dataclass
class Made:
    """One run on one task."""

    task: str = "figstep_tiny"
    defense: str = "none"
    model: str = "org/tiny-vlm"
    settings: dict[str, Any] = field(default_factory=dict)
    size: int = 20
    items: int | None = None
    """Items the task says it has; `size` when None."""
    benign: bool = False
    utility: bool | None = None
    judges: dict[str, tuple[str, float]] = field(default_factory=lambda: {"keyword_robust": ("refusal", 0.5)})
    """Judge name -> (kind, share of failures)."""
    unscored: dict[str, list[int]] = field(default_factory=dict)
    """Judge name -> rows without a verdict."""
    reason: str = "no reply"
    images_a_question: int = 1
    repeats: int = 1
    version: str = "1"
    revision: str = "rev0"
    model_revision: str = "abc123"
    note: str = "toy"
    seed: int = 0
    attention: str = "sdpa"
    engine: str = ""
    dtype: str = "float32"
    batch_size: int | None = 8
    timed: int | None = None
    """Answers that the seconds are of."""
    run: str | None = ""
    """Run id; made up when empty; None for another lmms-eval model."""
    seconds: float = 10.0
    notes: list[str] = field(default_factory=list)
    score: str = "mean"
    date: str = "20261124_120000"
    responses: Callable[[str], str] = lambda item: f"answer to {item}"
    groups: Callable[[int], dict[str, str]] = lambda row: {"topic": f"topic {row % 4}"}
    fingerprints: dict[str, str] = field(default_factory=dict)
    judge_models: dict[str, str] = field(default_factory=dict)
    score_of: Callable[[int], float] | None = None
    """Row -> score of a detector; above 0 it refuses, or sends the request on."""

    @property
    def run_id(self) -> str | None:
        if self.run is None:
            return None
        name = json.dumps(
            [self.task, self.model, self.defense, self.settings, self.seed, self.version, self.revision]
            + [self.attention]
        )
        return self.run or f"r{sha(name)[:10]}"

    def samples(self) -> list[SampleField]:
        """The rows' own fields."""
        made = []
        for row in range(self.size):
            for repeat in range(self.repeats):
                item = f"{self.task}/{row:05d}"
                salt = (self.model, self.defense, self.seed, repeat, json.dumps(self.settings))
                verdicts = {}
                for judge, (kind, share) in self.judges.items():
                    missing = row in self.unscored.get(judge, [])
                    verdicts[judge] = VerdictRecord(
                        kind=kind,
                        value=None if missing else coin(kind, share, salt, item),
                        reason=f"{self.reason}: made up" if missing else "keyword",
                        judge=self.fingerprints.get(judge, sha(judge)),
                        model="" if missing else self.judge_models.get(judge, ""),
                    )
                made.append(
                    SampleField(
                        item=item,
                        question=f"{self.task}/q{row // self.images_a_question:05d}"
                        if self.images_a_question > 1
                        else item,
                        repeat=repeat,
                        prompt_sha256=sha(f"prompt {item}"),
                        image_sha256=[sha(f"image {item}")],
                        response_sha256=sha(self.responses(item)),
                        run=self.run_id,
                        groups=self.groups(row),
                        **{"flags": ["clear_harm"] if row % 2 else [], **self._detected(row)},
                        verdicts=verdicts,
                    )
                )
        return made

    def _detected(self, row: int) -> dict[str, Any]:
        if self.score_of is None:
            return {}
        said = "sent_on" if "gate" in self.settings else "refused_by_detector"
        score = self.score_of(row)
        return {"detector_score": score, "flags": [said] if score > 0 else []}

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the samples file."""
        return [
            {
                "doc_id": number,
                "target": "",
                "filtered_resps": [self.responses(sample.item)],
                "doc_hash": sha(str(number)),
                "input": "",
                "shiftdc": sample.model_dump(),
                "shiftdc_item": {
                    "request": f"request of {sample.item}",
                    "prompt": f"prompt of {sample.item}",
                    "response": self.responses(sample.item),
                    "scenario": "scenario",
                    "reference": None,
                },
            }
            for number, sample in enumerate(self.samples())
        ]

    def record(self) -> RunRecord:
        """The run record."""
        answers = self.size * self.repeats
        return RunRecord(
            id=str(self.run_id),
            started="2026-11-24T12:00:00+00:00",
            finished="2026-11-24T12:01:00+00:00",
            model=self.model,
            revision=self.model_revision,
            architecture="TinyForConditionalGeneration",
            model_note=self.note,
            defense=self.defense,
            settings=self.settings,
            template_sha256=sha("template"),
            dtype=self.dtype,
            attention=self.attention,
            engine=self.engine,
            batch_size=self.batch_size,
            seed=self.seed,
            tasks=[
                TaskRecord(
                    name=self.task,
                    version=self.version,
                    dataset="made",
                    revision=self.revision,
                    benign=self.benign,
                    utility=self.utility,
                    items=self.items or self.size,
                    answered=answers,
                    generation={"do_sample": False, "max_new_tokens": 64},
                    score=self.score,
                )
            ],
            cost=Cost(
                seconds=self.seconds,
                samples=answers,
                timed=self.timed,
                reused=0,
                tokens_in=1000,
                tokens_out=500,
            ),
            command=f"lmms-eval --model shiftdc_vlm --model_args defense={self.defense} --tasks {self.task}",
            versions={"torch": "2.14.1"},
            hardware="1 CPU",
            notes=self.notes,
        )

    def write(self, folder: Path) -> Path:
        """Write results, samples and run record; returns the samples file."""
        place = folder / self.model.replace("/", "__")
        place.mkdir(parents=True, exist_ok=True)
        date = f"{self.date}-{self.defense}-{self.task}-{self.run_id}"
        write_json(place / f"{date}_results.json", self.results())
        samples = place / f"{date}_samples_{self.task}.jsonl"
        write_rows(samples, self.rows())
        if self.run_id is not None:
            (folder / f"run-{self.run_id}.json").write_text(self.record().model_dump_json(), encoding="utf-8")
        return samples

    def results(self) -> dict[str, Any]:
        """What lmms-eval's own results file holds, as far as the board reads it."""
        facts = {
            "dataset": "made",
            "revision": self.revision,
            "benign": self.benign,
            "utility": self.utility,
            "items": self.items or self.size,
        }
        return {
            "results": {self.task: {"alias": self.task}},
            "configs": {
                self.task: {
                    "metadata": {"version": self.version, "shiftdc": facts},
                    "generation_kwargs": {"do_sample": False, "max_new_tokens": 64, "until": []},
                }
            },
            "versions": {self.task: self.version},
            "n-samples": {self.task: {"original": self.items or self.size, "effective": self.size}},
            "config": {"model": "openai_compatible", "model_args": f"model={self.model}", "random_seed": 0},
            "git_hash": "0123abc",
            "lmms_eval_version": "0.7.3",
            "model_name": self.model,
            "date": self.date,
        }


def write_json(path: Path, value: Any) -> None:
    """A JSON file."""
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def small_grid(folder: Path) -> None:
    """Two models, three defenses, a safety task with two judges, its benign twin, and a utility task."""
    shares = {"none": (0.8, 0.05, 0.9), "shiftdc": (0.25, 0.1, 0.88), "ecso": (0.35, 0.3, 0.8)}
    for model in ("org/tiny-vlm", "org/other-vlm"):
        for defense, (asr, refusal, utility) in shares.items():
            common = {"model": model, "defense": defense, "seconds": 10.0 if defense == "none" else 23.0}
            judges = {"keyword_robust": ("refusal", asr), "llm_harm": ("harm", asr * 0.7)}
            Made(task="figstep", size=60, judges=judges, unscored={"llm_harm": [3]}, **common).write(folder)
            over = {"keyword_robust": ("refusal", 1 - refusal)}
            Made(task="figstep_benign", size=50, benign=True, judges=over, **common).write(folder)
            Made(task="mini_vqa", size=80, judges={"exact": ("score", utility)}, **common).write(folder)
