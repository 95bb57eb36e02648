"""What every task of ours shares: data without retries, judges in batches, and sample rows of our own.

A plain YAML task would not do: lmms-eval retries `download` and `process_results` five times, which hides the
error of a missing file and asks a failing judge five times; `process_results` strips the responses; and its
filters write rows without a name, so they cannot be judges.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import datasets
from lmms_eval.api.task import ConfigurableMessagesTask, ConfigurableTask
from PIL import Image

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.hashing import image_sha256, text_sha256
from shiftdc_eval.core.reasoning import Tags, final_answer, reasoning_tags
from shiftdc_eval.core.records import SampleField, VerdictRecord
from shiftdc_eval.core.run_ids import run_of
from shiftdc_eval.judges.samples_file import verdict_record
from shiftdc_eval.judges.verdict import Item, Judge, Verdict, rubric_hash
from shiftdc_eval.tasks.example import Example, Source, require_unique
from shiftdc_eval.tasks.info import TaskInfo
from shiftdc_eval.tasks.judging import Answer, ask, fingerprints, judge_item, judging_cost, make_answer
from shiftdc_eval.tasks.metrics import Metric, require_each_once

SPLIT = "test"
JUDGING = "judging"
"""Entry of lmms-eval's result file that says which judges judged and what that cost."""
GENERATION = {"until": [], "do_sample": False, "temperature": 0, "max_new_tokens": 512}
"""Generation settings that a task's yaml does not name. Without `until`, lmms-eval would cut every answer at its
first blank line."""


class BenchmarkTask(ConfigurableMessagesTask):  # type: ignore[misc]
    """Base of all tasks: subclasses load examples and say what is measured."""

    infos: ClassVar[Sequence[TaskInfo]] = ()
    """What is known of the tasks that this class is used for."""
    score: ClassVar[Literal["mean", "mme"]] = "mean"
    """How `score` verdicts make one number, as `records.TaskRecord` has it."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        settings = dict(config or {})
        settings.pop("class", None)
        settings["test_split"] = SPLIT
        # lmms-eval would take reasoning off after judging, and out of the sample; judges see the final answer alone
        self._own_tags = settings.get("reasoning_tags")
        settings["reasoning_tags"] = "none"
        settings["generation_kwargs"] = GENERATION | (settings.get("generation_kwargs") or {})
        self.info = self.describe(settings)
        # lmms-eval shows "Yaml" as the version of a task without
        settings["metadata"] = {"version": self.info.version} | dict(settings.get("metadata") or {})
        self.settings: dict[str, Any] = dict(settings.get("dataset_kwargs") or {})
        self.named_judges = self._named_judges()
        self.judges: list[Judge] = self.make_judges()
        # taken once, here: a judge that cannot work then ends the run before an answer is generated
        self._fingerprints = fingerprints(self.judges)
        self._rubrics = {judge.name: rubric_hash(judge) for judge in self.judges}
        self._verdicts: dict[tuple[str, int], dict[str, Verdict]] = {}
        self._repeats: dict[str, int] = {}
        self._runs: dict[str, str | None] = {}
        self._image_hashes: dict[str, str] = {}
        self._expected: list[str] = []
        super().__init__(config=settings)

    def describe(self, settings: Mapping[str, Any]) -> TaskInfo:
        """What is known of the task that this yaml names.

        Raises:
            ConfigError: no entry of `infos` has its name.
        """
        name = settings.get("task", "")
        found = next((info for info in self.infos if info.name == name), None)
        if found is None:
            raise ConfigError(
                f"task {name!r} is not described: no entry of {type(self).__name__}.infos has its name"
            )
        return found

    def _named_judges(self) -> tuple[str, ...]:
        """The judges that the task's yaml names under `dataset_kwargs: judges:`; none where it names none."""
        named = self.settings.pop("judges", ())
        if isinstance(named, str) or not all(isinstance(spec, str) for spec in named):
            raise ConfigError(f"task {self.info.name}: judges in its yaml must be a list of judge specs")
        return tuple(named)

    # ---- what a subclass says -------------------------------------------------------------------

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
        """What one answer contributes to each metric; a metric left out does not count it."""

    def repeat_values(self, example: Example, verdicts: Sequence[Mapping[str, Verdict]]) -> dict[str, Any]:
        """What all repeats of one request together contribute; called only when there are several."""
        return {}

    @abstractmethod
    def make_judges(self) -> list[Judge]:
        """The judges of this task, in column order."""

    # ---- data -----------------------------------------------------------------------------------

    def download(self, dataset_kwargs: Mapping[str, Any] | None = None) -> None:
        """Load the examples, once and without retries."""
        self.source = self.load()
        require_unique(self.source.examples, f"{self.info.name} ({self.source.dataset})")
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
        """What a run record says of this task, by the names of `records.TaskRecord`."""
        return {
            "dataset": self.source.dataset,
            "revision": self.source.revision,
            "benign": self.info.benign,
            "utility": self.info.utility,
            "items": self.items(),
            "notes": list(self.source.notes),
            "score": self.score,
        }

    def items(self) -> int:
        """Items the full task has; those that were loaded where its description leaves the number open."""
        return self.info.size if self.info.size is not None else len(self.source.examples)

    def example(self, doc: Mapping[str, Any]) -> Example:
        """The example a document stands for."""
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
        self._image_hashes.setdefault(example.id, image_sha256(image))
        return [image]

    def image_text(self, doc: Mapping[str, Any]) -> str | None:
        """What the image shows, in words, where the data says so (a change of it needs a new task version)."""
        return self.example(doc).image_text

    def doc_to_messages(self, doc: Mapping[str, Any], **_: Any) -> list[dict[str, Any]]:
        """One user turn: the image, then the text."""
        turn: list[dict[str, Any]] = self._build_user_turn(self.doc_to_visual(doc), self.doc_to_text(doc))
        return turn

    def construct_requests(self, doc_id: int, ctx: str, **kwargs: Any) -> Any:
        """A chat request; the older argument order for models that only have a simple class."""
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
        """Build the requests and note which items they are.

        Raises:
            ConfigError: `--limit` is a fraction.
        """
        self.reasoning_tags()  # what cannot be read ends the run before an answer is generated
        asked = getattr(getattr(self, "args", None), "limit", None)
        if asked is not None and 0 < asked < 1:
            raise ConfigError(
                f"--limit {asked}: lmms-eval would use the first task's count for every task; "
                f"give a number of items instead (the task {self.info.name} has {len(self._by_id)})"
            )
        ids = [example.id for example in self.source.examples]
        self._expected = ids[offset : offset + int(limit) if limit else None]
        # lmms-eval's request cache drops the function that makes the messages, and outlives a changed prompt
        kwargs["cache_requests"] = False
        super().build_all_requests(limit=limit, offset=offset, **kwargs)

    # ---- judging --------------------------------------------------------------------------------

    def reasoning_tags(self) -> Tags | None:
        """Pairs of tags that the task's yaml or the command names as reasoning; None: every form that we know.

        Raises:
            ConfigError: what was given is no list of pairs.
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
            for repeat, response in enumerate(responses):
                name = "none" if repeat == 0 else f"repeat_{repeat}"
                instance.filtered_resps[name] = make_answer(response, repeat)
            if not (instance.metadata or {}).get("__padding_only__"):
                example = self.source.examples[instance.doc_id]
                self._repeats[example.id] = len(responses)
                self._runs[example.id] = run_of(instance)
                keys += [(example.id, repeat) for repeat in range(len(responses))]
                items += [judge_item(example, response, tags) for response in responses]
        if "bypass" not in self._metric_fn_list:  # --predict_only asks for answers alone
            for key, verdicts in zip(keys, self.judge(items), strict=True):
                self._verdicts[key] = verdicts

    def judge(self, items: Sequence[Item]) -> list[dict[str, Verdict]]:
        """Verdicts by judge name, one dict an item; a judge that fails leaves its items unscored."""
        by_item: list[dict[str, Verdict]] = [{} for _ in items]
        for judge in self.judges:
            for verdicts, verdict in zip(by_item, ask(judge, items), strict=True):
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
        response = None if answer.failed else str(answer)
        return {
            **values,
            "shiftdc": self._sample_field(example, answer.repeat, response, verdicts).model_dump(),
            "shiftdc_item": {
                "request": example.request,
                "prompt": example.prompt,
                "response": response,
                "scenario": example.scenario,
                "reference": example.reference,
                **({"context": example.context} if example.context else {}),
            },
        }

    def _sample_field(
        self, example: Example, repeat: int, response: str | None, verdicts: Mapping[str, Verdict]
    ) -> SampleField:
        tags = self.reasoning_tags()
        return SampleField(
            item=example.id,
            question=example.question,
            repeat=repeat,
            prompt_sha256=text_sha256(example.prompt),
            image_sha256=self._image_sha256(example),
            response_sha256=None if response is None else text_sha256(response),
            run=self._runs.get(example.id),
            groups=dict(example.groups),
            flags=list(example.flags),
            reasoning=[] if response is None else list(final_answer(response, tags).stripped),
            reasoning_tags=None if tags is None else list(tags),
            verdicts={name: self._record(name, verdict) for name, verdict in verdicts.items()},
        )

    def _record(self, name: str, verdict: Verdict) -> VerdictRecord:
        return verdict_record(verdict, self._fingerprints[name], self._rubrics[name])

    def _image_sha256(self, example: Example) -> list[str]:
        if example.image is None:
            return []
        if example.id not in self._image_hashes:
            self._image_hashes[example.id] = image_sha256(example.image())
        return [self._image_hashes[example.id]]

    # ---- aggregation ----------------------------------------------------------------------------

    def _prepare_metric_and_aggregation(self) -> None:
        metrics = self.metrics()
        if self.judges:
            metrics[JUDGING] = Metric(judging_cost, False)
        self._metric_fn_list = dict.fromkeys(metrics)
        self._metric_fn_kwargs: dict[str, dict[str, Any]] = {name: {} for name in metrics}
        self._aggregation_list = {name: metric.aggregate for name, metric in metrics.items()}
        self._higher_is_better = {name: metric.higher_is_better for name, metric in metrics.items()}

    def checked(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        """Rows by their `item`; every item that was asked has exactly one.

        Raises:
            DataError: names the items that are missing, unknown or repeated.
        """
        require_each_once([row["item"] for row in rows], self._expected, self.info.name)
        return {row["item"]: row for row in rows}
