"""Requests of lmms-eval as samples that can be answered, found again and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shiftdc_eval.backbones import Chat, GenerationSettings
from shiftdc_eval.core.errors import DataError
from shiftdc_eval.core.hashing import digest
from shiftdc_eval.core.images import strict_decoding
from shiftdc_eval.core.run_ids import Made
from shiftdc_eval.defenses import Answer, Request
from shiftdc_eval.defenses.base import BEGUN, DETECTOR_SCORE, OVER_CONTEXT, REFUSED_BY_DETECTOR, SENT_ON
from shiftdc_eval.defenses.directions import normalised
from shiftdc_eval.plugin.messages import chat_from_messages, settings_from_kwargs

FLAGS = (OVER_CONTEXT, REFUSED_BY_DETECTOR, SENT_ON)
"""Notes on an answer that its sample row carries."""
AGAIN = "again"
"""Key of a record that is not kept: its request has no answer, and is asked again at the next start."""


@dataclass(frozen=True)
class Sample:
    """One request, ready to answer."""

    key: str
    """Journal key: covers everything about this request that can change its answer."""
    task: str
    """lmms-eval task name."""
    doc_id: int
    """Index of the document in its task."""
    repeat: int
    """Index among the repeats of the document."""
    chat: Callable[[], Chat]
    """Makes what is asked, images decoded: called when its batch comes, so that memory stays flat."""
    seed: str
    """Seed of this request's sampling."""
    length: tuple[int, int]
    """Sort key that groups requests of similar size: number of images, then characters."""
    settings: GenerationSettings
    """How the answer is decoded."""
    notes: tuple[str, ...]
    """Which of the task's generation settings were ignored."""
    question: str
    """The request in words, if its document has it (FigStep: the instruction in the image)."""
    words: str
    """The normalised text prompt, to detect items in a direction's contrast set."""
    image_text: str | None
    """The text in the image, if the task's data has it."""
    padding: bool
    """Padding copy that equalises the ranks of a data-parallel run: answered, never journalled."""

    def request(self) -> Request:
        """The request, ready for a defense."""
        return Request(self.chat(), self.seed, self.image_text)

    def record(self, answer: Answer, seconds: float, hardware: str) -> dict[str, Any]:
        """The journal record of this sample's answer.

        Args:
            answer: what the defense answered.
            seconds: what it took, reused captions included.
            hardware: what all of these seconds were measured on; empty when not on one machine.
        """
        return {
            "key": self.key,
            "task": self.task,
            "doc_id": self.doc_id,
            "repeat": self.repeat,
            "text": None if answer.unanswered else answer.text,
            **({"unanswered": answer.unanswered} if answer.unanswered else {}),
            **({AGAIN: True} if answer.unanswered and answer.blame != "item" else {}),
            "tokens_in": answer.tokens_in,
            "tokens_out": answer.tokens_out,
            "seconds": round(seconds, 6),
            "hardware": hardware,
            "notes": list(answer.notes),
            "extra": answer.extra,
        }


def samples_from(
    instances: Sequence[Any], documents: Mapping[str, Any], *, system_prompt: str, use_cache: bool, seed: int
) -> list[Sample]:
    """Samples of lmms-eval's `generate_until` instances, in order.

    Args:
        instances: `lmms_eval.api.instance.Instance`s of chat tasks.
        documents: task -> split -> documents.
        system_prompt: put in front of every chat.
        use_cache: decode with a KV cache.
        seed: seed of sampling.

    Raises:
        ConfigError, DataError, ModelError: a request that cannot be answered; names task and document.
    """
    samples = []
    seen: dict[tuple[str, int], int] = {}
    for instance in instances:
        _, to_messages, kwargs, doc_id, task, split = instance.args
        where = f"task {task}, document {doc_id}"
        settings, notes = settings_from_kwargs(kwargs, use_cache=use_cache, where=where)

        def make(
            doc: Any = documents[task][split], index: int = doc_id, ask: Any = to_messages, at: str = where
        ) -> Chat:
            try:
                with strict_decoding():  # documents of other tasks are decoded here, by `datasets`
                    messages = ask(doc[index])
            except OSError as error:
                raise DataError(f"{at}: its images cannot be read: {error}") from error
            return chat_from_messages(messages, system_prompt, where=at)

        chat = make()
        padding = bool((instance.metadata or {}).get("__padding_only__"))
        repeat = seen[task, doc_id] = 0 if padding else seen.get((task, doc_id), -1) + 1
        version = str(getattr(task_of(instance), "VERSION", ""))
        drawn = repeat if settings.do_sample else 0
        key = digest([task, version, doc_id, chat.key(), settings.key(), drawn])
        document = documents[task][split][doc_id]
        question = str(document.get("request", "")) if isinstance(document, Mapping) else ""
        samples.append(
            Sample(
                key=key,
                task=task,
                doc_id=doc_id,
                repeat=repeat,
                chat=make,
                seed=f"{seed}:{key}",
                length=(len(chat.images), len(chat.request)),
                settings=settings,
                notes=tuple(notes),
                question=question,
                words=normalised(chat.request),
                image_text=image_text_of(instance, document),
                padding=padding,
            )
        )
    return samples


def made(record: Mapping[str, Any]) -> Made:
    """What a sample row says of an answer, from its journal record."""
    flags = tuple(note for note in record["notes"] if note in FLAGS)
    extra = record.get("extra", {})
    return Made(record.get("unanswered", ""), flags, extra.get(DETECTOR_SCORE), extra.get(BEGUN, ""))


def task_of(instance: Any) -> Any:
    """The lmms-eval task of an instance, or None."""
    return getattr(instance.args[1], "__self__", None)


def image_text_of(instance: Any, document: Any) -> str | None:
    """The text in a document's image; None if its task does not provide it."""
    said = getattr(task_of(instance), "image_text", None)
    return said(document) if callable(said) else None
