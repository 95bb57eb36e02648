"""The lmms-eval models: requests -> batches -> defense -> responses, each finished batch journalled."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.distributed
from accelerate import Accelerator, InitProcessGroupKwargs
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from shiftdc_eval.backbones import Backbone, load_backbone
from shiftdc_eval.backbones.interface import offered
from shiftdc_eval.backbones.server.backbone import as_server
from shiftdc_eval.core.errors import ConfigError, ModelError
from shiftdc_eval.core.files import atomic_write
from shiftdc_eval.core.model_memory import offer_room, withdraw_room
from shiftdc_eval.core.model_spec import served
from shiftdc_eval.core.paths import cache_dir, journal_dir
from shiftdc_eval.core.run_ids import mark
from shiftdc_eval.core.terminal import ROUTINE
from shiftdc_eval.defenses import Defense, Tools
from shiftdc_eval.defenses.arguments import chosen, require
from shiftdc_eval.defenses.base import OVER_CONTEXT
from shiftdc_eval.defenses.caption_store import CaptionStore, engine_key
from shiftdc_eval.defenses.directions import Directions
from shiftdc_eval.defenses.preflight import require_use
from shiftdc_eval.judges.language import expect
from shiftdc_eval.plugin.arguments import (
    DEFAULTS,
    AdapterArguments,
    parse_pairs,
    split_arguments,
    validated,
)
from shiftdc_eval.plugin.batches import Batches
from shiftdc_eval.plugin.build_record import leaked_items, plugins, run_record
from shiftdc_eval.plugin.journal import Journal
from shiftdc_eval.plugin.lmms_tasks import Answered, add_fields
from shiftdc_eval.plugin.options import refuse_what_lmms_eval_parsed
from shiftdc_eval.plugin.requests import AGAIN, Sample, made, samples_from, task_of
from shiftdc_eval.plugin.run_record import Tally, gathered, task_records
from shiftdc_eval.plugin.server_batches import ServerBatches

logger = logging.getLogger(__name__)
SHOWN = 20
"""Requests without an answer that are named, where there are many."""


class ShiftDCVlm(lmms):  # type: ignore[misc]
    """Any supported backbone behind any defense.

    Args:
        backbone: a loaded model to use instead of loading `pretrained` (a grid loads each model once).
        given: model arguments, as in `--model_args`: see `AdapterArguments` and the defense's settings.

    Raises:
        ConfigError: an argument that is unknown, missing or ill-typed.
        ModelError: the model cannot be loaded.
        DirectionError: a given direction was made for another model.
    """

    is_simple = False
    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS["shiftdc_vlm"]
    """Arguments used where the user gives none."""
    command: str = ""
    """Command to record as reproducing the run; empty: this process's own command line."""
    token: str = ""
    """Suffix of this process's run ids, by which its parent finds them; empty: a random one per run."""
    opened: ClassVar[Callable[[Path], object]] = lambda journal: None
    """Is told which journal a run goes on with, before the first answer."""

    def __init__(self, backbone: Backbone | None = None, **given: Any) -> None:
        super().__init__()
        own, theirs = split_arguments(served({**self.defaults, **given}))
        self.arguments = validated(AdapterArguments, own, what="model argument")
        self.defense: Defense = chosen(self.arguments.defense, theirs, what="model argument")
        expect(self.arguments.languages)
        engine = self.arguments.engine
        able = backbone.capabilities if backbone else offered(self.arguments)
        require(self.defense, able, engine, use_cache=self.arguments.use_cache)
        require_use(self.defense, direction=self.arguments.direction, contrast=self.arguments.contrast)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            atexit.register(leave_process_group)
            if not torch.distributed.is_initialized():
                # torch gives up on a process that waits ten minutes for the others; answers may take longer
                patience = InitProcessGroupKwargs(timeout=timedelta(weeks=1))
                self.accelerator = Accelerator(kwargs_handlers=[patience])
            if engine == "server":
                raise ConfigError(
                    "a model behind a server is asked by one process (WORLD_SIZE is above 1 here); concurrency= says "
                    "how many requests are in flight"
                )
        self._owns_backbone = backbone is None
        self._released = False
        self._runs = 0
        self.batches: Batches | ServerBatches = Batches(
            self.arguments.batch_size, self.arguments.max_batch_size
        )
        self.to_ask_again = 0
        """Requests of the last call that have no answer by no fault of their own."""
        self._equip(backbone or self._load())
        if self.arguments.system_prompt:
            self.backbone.check_system_prompt()
        self.settings: dict[str, Any] = self.defense.resolved(self.backbone)

    def _load(self) -> Backbone:
        return load_backbone(self.arguments, self.defense.needed())

    def _equip(self, backbone: Backbone) -> None:
        """Set the backbone and everything that depends on it."""
        self.backbone = backbone
        server = as_server(backbone)
        if server:
            self.batches = ServerBatches(server)
        self._device: torch.device = torch.device("cpu") if server else backbone.device
        self._directions = Directions(
            backbone,
            path=self.arguments.direction,
            contrast=self.arguments.contrast,
            batch_size=max(self.batch_size, 8),
        )
        captions = CaptionStore(cache_dir() / "captions.sqlite")
        self.tools = Tools(backbone, captions, self._directions)

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        """Build from `--model_args`; these win over lmms-eval's own batch_size and device options."""
        refuse_what_lmms_eval_parsed()
        options = {name: value for name, value in (additional_config or {}).items() if value is not None}
        return cls(**{**options, **parse_pairs(arg_string)})

    @property
    def batch_size(self) -> int:
        """Requests answered together now."""
        return self.batches.size

    @property
    def device(self) -> torch.device:
        """Device of the model; lmms-eval needs it under data parallelism."""
        return self._device

    def clean(self) -> None:
        """Called by lmms-eval after the last answer of all tasks and before judging.

        Cached memory is given back at once, the backbone's own as soon as a local judge needs it.
        """
        if not self._released:
            self.backbone.release()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        offer_room(self._vacate)

    @contextmanager
    def _vacate(self) -> Iterator[None]:
        """Free the backbone's memory for a judge.

        A backbone of our own is let go and loaded again should more answers be asked for; one that was given
        is needed by whoever gave it, so it waits in main memory and comes back.
        """
        if not self._owns_backbone:
            with self.backbone.set_aside():
                yield
            return
        if not self._released:
            logger.warning(
                "%s: the answers are complete; its memory goes to the judge", self._label, extra=ROUTINE
            )
            del self.backbone, self._directions, self.tools
            self._released = True
        yield

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not supported."""
        raise ModelError(_unsupported(requests, "loglikelihood (multiple choice)"))

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not supported."""
        raise ModelError(_unsupported(requests, "multi-round"))

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer all requests of a run: reuse what the journal holds, then go on batch by batch."""
        started = datetime.now(UTC)
        withdraw_room(self._vacate)
        if self._released:
            self._equip(self._load())
            self._released = False
        fitted = self.defense.fitted(self.tools)
        other = self._directions.other_contrast if self.defense.uses_contrast else None
        beside = {"contrast_sha256": other} if other else {}
        self.settings = {**self.defense.resolved(self.backbone), **fitted, **beside}
        samples = samples_from(
            requests,
            self.task_dict,
            system_prompt=self.arguments.system_prompt,
            use_cache=self.arguments.use_cache,
            seed=self.arguments.seed,
        )
        folder = self.arguments.journal or journal_dir()
        tally = Tally(hardware=self._hardware)
        with Journal(folder, self._config(), rank=self.rank) as journal:
            type(self).opened(journal.path)
            done = self._answer_all(samples, journal, tally)
        if self._direction_sha256 or fitted:
            used = bool(fitted) or self.defense.uses_contrast
            tally.leaked = leaked_items(samples, self._directions.texts(fitted=used))
        run_id, total = gathered(self._new_id(started), tally)
        if reason := total.nothing_answered():
            raise ModelError(f"none of {sum(total.answered.values())} requests could be answered: {reason}")
        tasks = {sample.task: task_of(instance) for sample, instance in zip(samples, requests, strict=True)}
        if self.rank == 0:
            record = run_record(
                run_id,
                started,
                self.arguments,
                self.defense,
                self.backbone,
                task_records(samples, tasks, total),
                total,
                settings=self.settings,
                direction_sha256=self._direction_sha256,
                batch_size=self.batch_size,
                command=self.command,
            )
            path = folder / f"run-{run_id}.json"
            atomic_write(path, record.model_dump_json(indent=1) + "\n")
            logger.warning("%s: %s; run record %s", self._label, total.sentence(), path, extra=ROUTINE)
            if count := total.notes[OVER_CONTEXT]:
                logger.warning(
                    "%d prompts are longer than the %s tokens that %s was made for; their items have the flag %s",
                    count,
                    self.backbone.context,
                    self.backbone.name,
                    OVER_CONTEXT,
                )
        records = [done[sample.key] for sample in samples]
        again = [f"{s.task} {s.doc_id}" for s, r in zip(samples, records, strict=True) if AGAIN in r]
        self.to_ask_again = len(again)
        if again:
            logger.warning(
                "%s: %d of %d requests have no answer and are asked again at the next start: %s",
                self._label,
                len(again),
                len(records),
                ", ".join(again[:SHOWN]) + (" ..." if len(again) > SHOWN else ""),
            )
        mark(requests, run_id, map(made, records))
        answered = [
            (sample.task, Answered(sample, record, run_id))
            for sample, record in zip(samples, records, strict=True)
            if not sample.padding
        ]
        add_fields(tasks, answered)
        return [
            GenerationResult(record["text"] or "", TokenCounts(record["tokens_in"], record["tokens_out"]))
            for record in records
        ]

    def _new_id(self, started: datetime) -> str:
        self._runs += 1
        more = f"-{self._runs}" if self.token and self._runs > 1 else ""
        return f"{started:%Y%m%dT%H%M%S}-{self.token or secrets.token_hex(4)}{more}"

    def _answer_all(
        self, samples: Sequence[Sample], journal: Journal, tally: Tally
    ) -> dict[str, dict[str, Any]]:
        """Journal records by key, for every sample."""
        found = {sample.key: journal.get(sample.key) for sample in samples}
        done = {key: record for key, record in found.items() if record is not None}
        if done:
            said = "%s: reusing %d of %d finished answers"
            logger.warning(said, journal.path, len(done), len(found), extra=ROUTINE)
        # a padding copy has the key of the sample it copies, which must win: it is the one that is journalled
        unanswered = [sample for sample in samples if sample.key not in done]
        todo = list(
            {sample.key: sample for sample in sorted(unanswered, key=lambda s: not s.padding)}.values()
        )
        captions, edits = self.tools.captions, Counter(self.backbone.edits_made)
        before = captions.made, captions.reused
        with tqdm(
            total=len(found), initial=len(done), desc=self._label, unit="sample", disable=self.rank != 0
        ) as progress:
            for batch, records in self.batches.answered(todo, self.defense, self.tools):
                journal.append(
                    r for s, r in zip(batch, records, strict=True) if not s.padding and AGAIN not in r
                )
                done.update((record["key"], record) for record in records)
                progress.update(len(batch))
        fresh = {sample.key for sample in todo}
        for sample in samples:
            if not sample.padding:
                tally.count(done[sample.key], reused=sample.key not in fresh)
        tally.edits = self.backbone.edits_made - edits
        tally.captions_made, tally.captions_reused = captions.made - before[0], captions.reused - before[1]
        return done

    @property
    def _label(self) -> str:
        return f"{self.arguments.defense} on {self.backbone.name}"

    @property
    def _hardware(self) -> str:
        return self.backbone.hardware

    @property
    def _direction_sha256(self) -> str | None:
        direction = self.defense.direction_of(self.tools)
        return None if direction is None else str(direction.sha256)

    def _config(self) -> dict[str, Any]:
        """Everything besides the request that can change an answer; identifies the journal."""
        return {
            "answer_version": self.defense.answer_version,
            "revision": self.backbone.revision,
            "template": self.backbone.template_sha256,
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "attn_implementation": self.backbone.attention,
            **engine_key(self.backbone),
            "defense": self.arguments.defense,
            **({"plugins": found} if (found := plugins(self.arguments.defense)) else {}),
            "settings": _without_measures(self.settings),
            "direction": self._direction_sha256,
            "seed": self.arguments.seed,
        }


class ShiftDCLlava(ShiftDCVlm):
    """LLaVA-1.5-7B under ShiftDC, unless the arguments say otherwise."""

    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS["shiftdc_llava"]


class ShiftDCServer(ShiftDCVlm):
    """A model behind an OpenAI-compatible server."""

    defaults: ClassVar[Mapping[str, Any]] = DEFAULTS["shiftdc_server"]


def _without_measures(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what was measured while they were fitted: its last digits differ between batch sizes."""
    kept = dict(settings)
    for name in ("fitted", "gate_fitted"):
        if isinstance(found := kept.get(name), Mapping):
            kept[name] = {fact: value for fact, value in found.items() if not isinstance(value, float)}
    return kept


def leave_process_group() -> None:
    """Destroy the process group before the interpreter exits: lmms-eval does not, and leftover threads occasionally
    abort the process with SIGABRT after all results were written."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _unsupported(requests: Sequence[Instance], what: str) -> str:
    tasks = sorted({request.task_name or "?" for request in requests})
    return f"{what} requests (task {', '.join(tasks)}) are not supported by this model; it answers by generation only"
