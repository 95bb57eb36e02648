"""Sample fields and facts for tasks of lmms-eval's own (`tasks/lmms_own`) that our models answer.

lmms-eval scores them as ever. Each of their sample rows gets the fields that our own tasks write, from which board,
viewer and judges work; what could not be answered or judged is unscored in both.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any

from shiftdc_eval.backbones import Chat
from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import digest, image_sha256, text_sha256
from shiftdc_eval.core.images import changes_of
from shiftdc_eval.core.records import BENIGN_ITEM, SampleField, VerdictRecord
from shiftdc_eval.core.results_folder import FIELD, ITEM_FIELD
from shiftdc_eval.judges.samples_file import verdict_record
from shiftdc_eval.judges.verdict import unscored
from shiftdc_eval.plugin.requests import Sample, made
from shiftdc_eval.tasks.lmms_own.known import OWN, LmmsTask
from shiftdc_eval.tasks.lmms_own.scores import Scored
from shiftdc_eval.tasks.metrics import NOTHING_SCORED

logger = logging.getLogger(__name__)

REVISION = re.compile(r"@([0-9a-f]{40})/")
FALLBACK = "_string_match_is_correct"
"""Function of the HoliSafe task that scores where its judge failed."""
_seen = threading.local()


@dataclass(frozen=True)
class Answered:
    """One answered request of such a task."""

    sample: Sample
    record: Mapping[str, Any]
    """Its journal record."""
    run: str


def facts(task: Any) -> dict[str, Any]:
    """Facts for the run record, by the names of `records.TaskRecord`; empty for a task that is not known."""
    own = OWN.get(str(getattr(getattr(task, "config", None), "task", "")))
    if own is None:
        return {}
    docs, info = task.eval_docs, own.info
    checksums = getattr(getattr(docs, "info", None), "download_checksums", None) or {}
    revisions = {found[1] for name in checksums if (found := REVISION.search(name))}
    assert info.size is not None
    missing = info.size - len(docs)
    if missing > 0:
        said = f"incomplete data: loaded {len(docs)} of {info.size} items; totals over missing items are N/A"
        logger.warning("%s: %s", info.name, said)
    return {
        "version": f"{_version(task)} of lmms-eval {version('lmms_eval')}",
        "revision": "+".join(sorted(revisions)),
        "benign": info.benign,
        "utility": info.utility,
        "items": info.size,
        "score": own.score,
        "notes": [said] if missing > 0 else [],
    }


def _version(task: Any) -> str:
    """The version of its yaml, which lmms-eval does not see where `metadata` is a list."""
    metadata = task.config.metadata
    listed = metadata if isinstance(metadata, list) else [metadata or {}]
    return str(next((one["version"] for one in listed if "version" in one), task.VERSION))


def add_fields(tasks: Mapping[str, Any], answered: Sequence[tuple[str, Answered]]) -> None:
    """Let the tasks that are known put our fields into their sample rows.

    Args:
        tasks: task name -> lmms-eval task object.
        answered: (task name, answered request), paddings left out.

    Raises:
        DataError: two documents of a task have one id.
    """
    for name, task in tasks.items():
        own = OWN.get(name)
        mine = [one for of, one in answered if of == name]
        if own is None or not mine:
            continue
        if any(one.sample.repeat for one in mine):
            logger.warning("%s: asked with repeats, so its rows cannot be put on the board", name)
            continue
        ids = task.eval_docs[own.id_column]
        by_id = {str(ids[one.sample.doc_id]): one for one in mine}
        if len(by_id) < len(mine):
            raise DataError(
                f"{name}: two documents have one {own.id_column}, so results cannot be told apart"
            )
        _wrap(task, own, by_id)


def _wrap(task: Any, own: LmmsTask, answered: Mapping[str, Answered]) -> None:
    score = task.config.process_results
    scope = score.__globals__
    if FALLBACK in scope:
        scope[FALLBACK] = _noticed(scope[FALLBACK])
    model = _judge_model() if own.by_model else ""
    fingerprint = digest([own.judge, model, *(_source(scope, name) for name in own.sources)])
    original = type(task).process_results

    def process_results(
        doc: Mapping[str, Any], results: Sequence[Any], full_docs: Any = None
    ) -> dict[str, Any]:
        _seen.fallback = False
        metrics: dict[str, Any] = original(task, doc, results, full_docs)
        one = answered.get(str(doc[own.id_column]))
        if one is None:
            return metrics
        response, unanswered = one.record["text"], one.record.get("unanswered", "")
        if response is None:
            verdict = unscored(own.kind, unanswered or "no answer")
        else:
            fell_back = own.by_model and _seen.fallback
            verdict = own.verdict(doc, Scored(str(results[0]).strip(), metrics, scope, fell_back))
        verdict = verdict.model_copy(update={"model": model if verdict.scored else ""})
        record = verdict_record(verdict, fingerprint, "")
        chat = one.sample.chat()
        field = _field(own, doc, one, chat, {own.judge: record})
        kept = metrics if verdict.scored else {}
        return {**kept, FIELD: field.model_dump(), ITEM_FIELD: _item(own, doc, one, chat)}

    task.process_results = process_results
    complete = len(task.eval_docs) >= (own.info.size or 0)
    for metric, aggregate in task._aggregation_list.items():
        needs = (own.needs or {}).get(metric, ())
        task._aggregation_list[metric] = _or_not_available(aggregate, needs, complete)


def _field(
    own: LmmsTask, doc: Mapping[str, Any], one: Answered, chat: Chat, verdicts: dict[str, VerdictRecord]
) -> SampleField:
    said, response = made(one.record), one.record["text"]
    item = f"{own.info.name}/{doc[own.id_column]}"
    changes = dict.fromkeys(change for image in chat.images for change in changes_of(image))
    flags = [BENIGN_ITEM] if own.benign and own.benign(doc) else []
    return SampleField(
        item=item,
        question=item,
        prompt_sha256=text_sha256(chat.request),
        image_sha256=[image_sha256(image) for image in chat.images],
        response_sha256=None if response is None else text_sha256(response),
        unanswered=said.unanswered,
        run=one.run,
        groups=own.groups(doc),
        detector_score=said.detector_score,
        begun=said.begun,
        flags=[*flags, *changes, *said.flags],
        verdicts=verdicts,
    )


def _item(own: LmmsTask, doc: Mapping[str, Any], one: Answered, chat: Chat) -> dict[str, Any]:
    return {
        "request": str(doc.get(own.request) or ""),
        "prompt": chat.request,
        "response": one.record["text"],
        "scenario": next(iter(own.groups(doc).values()), ""),
        "reference": str(doc[own.reference]) if own.reference else None,
    }


def _noticed(fallback: Callable[..., Any]) -> Callable[..., Any]:
    """The fallback of a failed judge, which then tells that it was used."""
    if getattr(fallback, "_shiftdc", False):
        return fallback

    def noticed(*args: Any) -> Any:
        _seen.fallback = True
        return fallback(*args)

    noticed._shiftdc = True  # type: ignore[attr-defined]
    return noticed


def _or_not_available(
    aggregate: Callable[..., Any], needs: Sequence[str], complete: bool
) -> Callable[..., Any]:
    """The aggregation; `N/A` over incomplete data, and where no row has one of the types that it is over."""

    @functools.wraps(aggregate)
    def guarded(rows: list[Any], *args: Any, **kwargs: Any) -> Any:
        there = {row.get("type") for row in rows if isinstance(row, dict)}
        if not complete or not there.issuperset(needs):
            return NOTHING_SCORED
        return aggregate(rows, *args, **kwargs)

    return guarded


def _judge_model() -> str:
    """The judge's model, as lmms-eval 0.7.3 reads it."""
    return os.getenv("MODEL_VERSION") or os.getenv("GPT_EVAL_MODEL_NAME") or "gpt-4o-2024-11-20"


def _source(scope: Mapping[str, Any], name: str) -> str:
    module, _, member = name.rpartition(":")
    found = getattr(import_module(module), member) if module else scope[name]
    return found if isinstance(found, str) else inspect.getsource(found)
