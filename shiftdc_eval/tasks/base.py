"""The base class of all tasks: data without retries, judges in batches, and a field of our own in sample rows.

A plain YAML task is not enough: lmms-eval retries `download` and `process_results` five times, which hides the
error of a missing file and asks a failing judge five times; `process_results` strips the responses; and its
filters write rows without a name, so they cannot be judges.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal

import datasets
from lmms_eval.api.task import ConfigurableMessagesTask, ConfigurableTask
from PIL import Image

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.hashing import image_sha256, text_sha256
from shiftdc_eval.core.images import changes_of
from shiftdc_eval.core.reasoning import Tags, final_answer, reasoning_tags
from shiftdc_eval.core.records import BLANK_IMAGES, SampleField, VerdictRecord
from shiftdc_eval.core.run_ids import made_of, run_of
from shiftdc_eval.judges.derived import DerivedJudge
from shiftdc_eval.judges.language import codes
from shiftdc_eval.judges.samples_file import verdict_record
from shiftdc_eval.judges.verdict import Item, Judge, Verdict, rubric_hash
from shiftdc_eval.tasks.example import Example, Source, blanked, named, require_unique
from shiftdc_eval.tasks.info import BLANK, TaskInfo
from shiftdc_eval.tasks.judging import (
    Answer,
    ask,
    count_reasoning,
    fingerprints,
    judge_item,
    judging_cost,
    make_answer,
)
from shiftdc_eval.tasks.metrics import NOTHING_SCORED, Metric, require_each_once

logger = logging.getLogger(__name__)

SPLIT = "test"
REASONING = "reasoning"
"""Entry of lmms-eval's result file that counts the answers whose reasoning was taken off before they were judged."""
JUDGING = "judging"
"""Entry of lmms-eval's result file with the judges and their cost."""
GENERATION = {"until": [], "do_sample": False, "temperature": 0, "max_new_tokens": 512}
"""Defaults for generation settings that a task's yaml leaves out. Without `until`, lmms-eval cuts every answer at
its first blank line."""


class BenchmarkTask(ConfigurableMessagesTask):  # type: ignore[misc]
    """Base of all tasks: subclasses load examples and define metrics."""

    infos: ClassVar[Sequence[TaskInfo]] = ()
    """Facts about the tasks that use this class."""
    score: ClassVar[Literal["mean", "percent", "mme"]] = "mean"
    """How `score` verdicts are aggregated; see `records.TaskRecord`."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        settings = dict(config or {})
        settings.pop("class", None)
        settings["test_split"] = SPLIT
        # lmms-eval would strip reasoning after judging and from the sample; here judges see only the final answer
        self._own_tags = settings.get("reasoning_tags")
        settings["reasoning_tags"] = "none"
        settings["generation_kwargs"] = GENERATION | (settings.get("generation_kwargs") or {})
        self.info = self.describe(settings)
        # lmms-eval shows "Yaml" as the version of a task without
        settings["metadata"] = {"version": self.info.version} | dict(settings.get("metadata") or {})
        self.settings: dict[str, Any] = dict(settings.get("dataset_kwargs") or {})
        self.named_judges = self._named_judges()
        self.languages = codes(
            self.settings.pop("languages", ()), f"task {self.info.name}, languages in its yaml"
        )
        """Languages that the answers are expected in: those of the yaml; none: those of the model argument."""
        self.judges: list[Judge] = self.make_judges()
        # taken before an answer is generated, so that a judge that cannot work ends the run early
        self._fingerprints = fingerprints(self.judges)
        self._rubrics = {judge.name: rubric_hash(judge) for judge in self.judges}
        self._verdicts: dict[tuple[str, int], dict[str, Verdict]] = {}
        self._repeats: dict[str, int] = {}
        self._runs: dict[str, str | None] = {}
        self._images: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.excluded: Counter[str] = Counter()
        self._expected: list[str] = []
        super().__init__(config=settings)

    def describe(self, settings: Mapping[str, Any]) -> TaskInfo:
        """The entry of `infos` that the yaml names; with the setting `image: blank` its blank-image twin.

        Raises:
            ConfigError: there is none, or another value of `image`.
        """
        name = settings.get("task", "")
        image = (settings.get("dataset_kwargs") or {}).get("image")
        twins = [info.blank_twin() for info in self.infos if info.images]
        found = next((info for info in (twins if image else self.infos) if info.name == name), None)
        if image and (image != "blank" or found is None):
            raise ConfigError(
                f"task {name!r}: image: {image}: `image: blank` is the only value, of a task with images whose name "
                f"then ends in {BLANK}, so that its results are kept apart: {', '.join(one.name for one in twins)}"
            )
        if found is None:
            raise ConfigError(
                f"task {name!r} is not described: no entry of {type(self).__name__}.infos has its name"
            )
        return found

    def _named_judges(self) -> tuple[str, ...]:
        """Judge specs of the task's yaml (`dataset_kwargs: judges:`)."""
        named = self.settings.pop("judges", ())
        if isinstance(named, str) or not all(isinstance(spec, str) for spec in named):
            raise ConfigError(f"task {self.info.name}: judges in its yaml must be a list of judge specs")
        return tuple(named)

    # ---- what a subclass defines ----------------------------------------------------------------

    @abstractmethod
    def load(self) -> Source:
        """The examples.

        Raises:
            DataError: data missing or malformed, naming the file or what to fetch and where to put it.
        """

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """The lines of lmms-eval's table, by name."""

    @abstractmethod
    def metric_values(self, example: Example, verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
        """Value of one answer for each metric; a metric that is left out does not count the answer."""

    def repeat_values(self, example: Example, verdicts: Sequence[Mapping[str, Verdict]]) -> dict[str, Any]:
        """Values of all repeats of one request together; called only when there are several."""
        return {}

    @abstractmethod
    def make_judges(self) -> list[Judge]:
        """The judges of this task, in column order."""

    # ---- data -----------------------------------------------------------------------------------

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Load the examples, once and without retries."""
        source, name = self.load(), self.info.name
        require_unique(source.examples, f"{name} ({source.dataset})")
        examples = [named(example, name) for example in source.examples]
        if self.info.twin_of:
            examples = [blanked(example) for example in examples]
            note = f"{BLANK_IMAGES}: every image of {self.info.twin_of} is replaced by a grey one of its size"
            source = replace(source, notes=(*source.notes, note))
        self.source = replace(source, examples=examples)
        if self.missing():
            logger.warning("%s: %s", name, self._incomplete())
        self._by_id = {example.id: example for example in self.source.examples}
        rows = [
            {
                "item": example.id,
                "prompt": example.prompt,
                "request": example.request,
                "scenario": example.scenario,
                "reference": example.reference or "",
            }
            for example in self.source.examples
        ]
        self.dataset = {SPLIT: datasets.Dataset.from_list(rows)}
        self.dataset_no_image = self.dataset
        # every request carries the task's metadata, from which the adapter writes the run record
        self.config.metadata = {**(self.config.metadata or {}), "shiftdc": self.facts()}

    def facts(self) -> dict[str, Any]:
        """Facts about this task for the run record, by the names of `records.TaskRecord`."""
        return {
            "dataset": self.source.dataset,
            "revision": self.source.revision,
            "benign": self.info.benign,
            "utility": self.info.utility,
            "items": self.items(),
            "notes": [
                *self.source.notes,
                *([self._incomplete()] if self.missing() else []),
                *self._changed_images(),
            ],
            "score": self.score,
        }

    def items(self) -> int:
        """Items of the full task, less those excluded; the loaded ones where `TaskInfo.size` is None."""
        size = len(self.source.examples) if self.info.size is None else self.info.size
        return size - self.excluded.total()

    def missing(self, parts: Collection[str] | None = None) -> int:
        """Items of the full task, or of these groups of it, that the data does not hold.

        Args:
            parts: names out of `TaskInfo.parts`; None: the whole task.
        """
        sizes, examples = self.info.parts, self.source.examples
        if not sizes:
            return max(0, self.items() - len(examples))
        loaded = Counter(group for example in examples for group in set(example.groups.values()))
        return sum(max(0, sizes[part] - self.excluded[part] - loaded[part]) for part in parts or sizes)

    def _incomplete(self) -> str:
        loaded, items = len(self.source.examples), self.items()
        return f"incomplete data: loaded {loaded} of {items} items; totals over missing items are N/A"

    def _changed_images(self) -> list[str]:
        counts = Counter(change for _, changes in self._images.values() for change in changes)
        return [f"{count} of {len(self._images)} images {change}" for change, count in sorted(counts.items())]

    def example(self, doc: Mapping[str, Any]) -> Example:
        """The example of a document."""
        return self._by_id[doc["item"]]

    # ---- requests -------------------------------------------------------------------------------

    def doc_to_text(self, doc: Mapping[str, Any]) -> str:
        """The text prompt, verbatim."""
        return self.example(doc).prompt

    def doc_to_target(self, doc: Mapping[str, Any]) -> str:
        """The reference answer, or an empty text."""
        return self.example(doc).reference or ""

    def doc_to_visual(self, doc: Mapping[str, Any]) -> list[Image.Image]:
        """The image, or none."""
        example = self.example(doc)
        if example.image is None:
            return []
        image = example.image()
        if example.id not in self._images:
            self._images[example.id] = image_sha256(image), changes_of(image)
        return [image]

    def image_text(self, doc: Mapping[str, Any]) -> str | None:
        """Description of the image, where the data has one (changing it needs a new task version)."""
        return self.example(doc).image_text

    def doc_to_messages(self, doc: Mapping[str, Any], **_: Any) -> list[dict[str, Any]]:
        """One user turn: the image, then the text."""
        turn: list[dict[str, Any]] = self._build_user_turn(self.doc_to_visual(doc), self.doc_to_text(doc))
        return turn

    def construct_requests(self, doc_id: int, ctx: str, **kwargs: Any) -> Any:
        """A chat request; for models with only a simple class, a request with the older argument order."""
        if self._model_is_simple():
            return ConfigurableTask.construct_requests(self, doc_id, ctx, **kwargs)
        return super().construct_requests(doc_id, ctx, **kwargs)

    def _model_is_simple(self) -> bool:
        command = getattr(self, "args", None)
        name = getattr(command, "model", None)
        if not name:
            return False
        from lmms_eval.models import get_model_manifest

        manifest = get_model_manifest(name)
        forced = bool(getattr(command, "force_simple", False)) and manifest.simple_class_path is not None
        return forced or manifest.chat_class_path is None

    def build_all_requests(self, *, limit: int | None = None, offset: int = 0, **kwargs: Any) -> None:
        """Build the requests and note their items.

        Raises:
            ConfigError: `--limit` is a fraction.
            DataError: images of these items are missing.
        """
        self.reasoning_tags()  # malformed tags end the run before an answer is generated
        asked = getattr(getattr(self, "args", None), "limit", None)
        if asked is not None and 0 < asked < 1:
            raise ConfigError(
                f"--limit {asked}: lmms-eval would use the first task's count for every task; "
                f"give a number of items instead (the task {self.info.name} has {len(self._by_id)})"
            )
        ids = [example.id for example in self.source.examples]
        if offset >= len(ids):
            raise ConfigError(
                f"--offset {offset}: the task {self.info.name} has {len(ids)} items, so none is left"
            )
        self._expected = ids[offset : offset + int(limit) if limit else None]
        self.source.require_images(self._expected, self.info.name)
        # lmms-eval's request cache drops the function that makes the messages, and outlives a changed prompt
        kwargs["cache_requests"] = False
        super().build_all_requests(limit=limit, offset=offset, **kwargs)

    # ---- judging --------------------------------------------------------------------------------

    def reasoning_tags(self) -> Tags | None:
        """Pairs of tags that enclose reasoning, from the task's yaml or the command; None: all known forms.

        Raises:
            ConfigError: the value is not a list of pairs.
        """
        if self._own_tags is not None:
            return reasoning_tags(self._own_tags, f"task {self.info.name}: reasoning_tags")
        return reasoning_tags(
            getattr(getattr(self, "args", None), "reasoning_tags", None), "--reasoning_tags"
        )

    def apply_filters(self) -> None:
        """Ask every judge for every answer, in one batch a judge."""
        tags = self.reasoning_tags()
        keys: list[tuple[str, int]] = []
        items: list[Item] = []
        for instance in self._instances:
            responses = list(instance.resps) or [None]
            made = made_of(instance, len(responses))
            answers = [make_answer(*one) for one in zip(responses, range(len(responses)), made, strict=True)]
            for answer in answers:
                name = "none" if answer.repeat == 0 else f"repeat_{answer.repeat}"
                instance.filtered_resps[name] = answer
            if not (instance.metadata or {}).get("__padding_only__"):
                example = self.source.examples[instance.doc_id]
                self._repeats[example.id] = len(responses)
                self._runs[example.id] = run_of(instance)
                keys += [(example.id, repeat) for repeat in range(len(responses))]
                items += [judge_item(example, answer, tags) for answer in answers]
        if "bypass" not in self._metric_fn_list:  # --predict_only: no judging
            for key, verdicts in zip(keys, self.judge(items), strict=True):
                self._verdicts[key] = verdicts

    def judge(self, items: Sequence[Item]) -> list[dict[str, Verdict]]:
        """Verdicts by judge name, one dict an item; a judge that fails leaves its items unscored."""
        by_item: list[dict[str, Verdict]] = [{} for _ in items]
        for judge in self.judges:
            if isinstance(judge, DerivedJudge):
                found = [judge.derive(verdicts) for verdicts in by_item]
            else:
                found = ask(judge, items)
            for verdicts, verdict in zip(by_item, found, strict=True):
                verdicts[judge.name] = verdict
        return by_item

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any], full_docs: Any = None) -> Any:
        """Metric values of one answer, and the fields `shiftdc` and `shiftdc_item` of its sample row."""
        example = self.example(doc)
        answer = results[0] if isinstance(results[0], Answer) else make_answer(results[0], 0)
        verdicts = self._verdicts.get((example.id, answer.repeat), {})
        values = self.metric_values(example, verdicts) if verdicts or not self.judges else {}
        count = self._repeats.get(example.id, 1)
        if values and answer.repeat == 0 and count > 1:
            together = [self._verdicts[example.id, repeat] for repeat in range(count)]
            values |= self.repeat_values(example, together)
        if verdicts and self.judges:
            values[JUDGING] = {name: self._record(name, verdict) for name, verdict in verdicts.items()}
        field = self._sample_field(example, answer, verdicts)
        if field.reasoning:
            values[REASONING] = field.reasoning
        response = answer.response
        return {
            **values,
            "shiftdc": field.model_dump(),
            "shiftdc_item": {
                "request": example.request,
                "prompt": example.prompt,
                "response": response,
                "scenario": example.scenario,
                "reference": example.reference,
                **({"context": example.context} if example.context else {}),
            },
        }

    def _sample_field(self, example: Example, answer: Answer, verdicts: Mapping[str, Verdict]) -> SampleField:
        tags, response = self.reasoning_tags(), answer.response
        hashes, changes = self._image_facts(example)
        return SampleField(
            item=example.id,
            question=example.question,
            repeat=answer.repeat,
            prompt_sha256=text_sha256(example.prompt),
            image_sha256=hashes,
            response_sha256=None if response is None else text_sha256(response),
            unanswered=answer.made.unanswered,
            run=self._runs.get(example.id),
            groups=dict(example.groups),
            detector_score=answer.made.detector_score,
            begun=answer.made.begun,
            reasoning=[] if response is None else list(final_answer(response, tags).stripped),
            reasoning_tags=None if tags is None else list(tags),
            flags=[*example.flags, *changes, *answer.made.flags],
            verdicts={name: self._record(name, verdict) for name, verdict in verdicts.items()},
        )

    def _record(self, name: str, verdict: Verdict) -> VerdictRecord:
        return verdict_record(verdict, self._fingerprints[name], self._rubrics[name])

    def _image_facts(self, example: Example) -> tuple[list[str], tuple[str, ...]]:
        """Hash of the image, none without one, and what was changed when it was loaded."""
        if example.image is None:
            return [], ()
        if example.id not in self._images:
            image = example.image()
            self._images[example.id] = image_sha256(image), changes_of(image)
        digest, changes = self._images[example.id]
        return [digest], changes

    # ---- aggregation ----------------------------------------------------------------------------

    def _prepare_metric_and_aggregation(self) -> None:
        metrics = {**self.metrics(), REASONING: Metric(count_reasoning, False)}
        if self.judges:
            metrics[JUDGING] = Metric(judging_cost, False)
        self._metric_fn_list = dict.fromkeys(metrics)
        self._metric_fn_kwargs: dict[str, dict[str, Any]] = {name: {} for name in metrics}
        self._aggregation_list = {name: partial(self._aggregate, metric) for name, metric in metrics.items()}
        self._higher_is_better = {name: metric.higher_is_better for name, metric in metrics.items()}

    def _aggregate(self, metric: Metric, rows: list[Any]) -> Any:
        """The metric's value; rates, scores and totals over incomplete data are `N/A`, counts and splits are kept."""
        value = metric.aggregate(rows)
        return NOTHING_SCORED if isinstance(value, float) and self.missing(metric.parts) else value

    def checked(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """Rows by their `item`; every item of the run has exactly one.

        Raises:
            DataError: names the items that are missing, unknown or repeated.
        """
        require_each_once([row["item"] for row in rows], self._expected, self.info.name)
        return {row["item"]: row for row in rows}
