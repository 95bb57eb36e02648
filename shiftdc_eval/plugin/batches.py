"""Batches of samples: as many rows as fit into memory, longest requests first."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any, Literal

import torch

from shiftdc_eval.backbones import Backbone, GenerationSettings
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.core.terminal import ROUTINE
from shiftdc_eval.defenses import Answer, Defense, Request, Tools
from shiftdc_eval.defenses.answering import answered
from shiftdc_eval.defenses.caption_store import clock
from shiftdc_eval.plugin.prefetch import Ahead
from shiftdc_eval.plugin.requests import Sample

AUTO_BATCH_SIZE = 32
"""Batch size of `auto` if free memory is not measured (CPU)."""
MOST_AUTO = 288
"""Upper bound of the measured batch size: larger ones are hardly faster."""
LANES = 9
"""Parts in which a batch runs side by side on an engine that refills rows: one part's prompts are read and preprocessed
while the others' answers are decoded."""
logger = logging.getLogger(__name__)


class Batches:
    """Answers samples batch by batch.

    Args:
        size: requests answered together, or `auto`.
        most: upper bound of `auto`.
    """

    def __init__(self, size: int | Literal["auto"], most: int | None) -> None:
        self.size = (most or AUTO_BATCH_SIZE) if size == "auto" else size
        """Requests answered together now."""
        self._auto = size == "auto"
        self._most = most or MOST_AUTO

    def answered(
        self, todo: Sequence[Sample], defense: Defense, tools: Tools
    ) -> Iterator[tuple[list[Sample], list[dict[str, Any]]]]:
        """Batches with their journal records; a batch that does not fit into memory is halved.

        Raises:
            ModelError: a single request does not fit.
        """
        backbone, captions = tools.backbone, tools.captions
        hardware = backbone.hardware
        for settings in dict.fromkeys(sample.settings for sample in todo):
            # longest first: what does not fit into memory fails at once, and not after hours
            same = sorted(
                (sample for sample in todo if sample.settings == settings),
                key=lambda sample: sample.length,
                reverse=True,
            )
            if self._auto:
                self.fit(same[0], defense, settings, backbone)
            finished = self._side_by_side if backbone.refills else self._in_turn
            begun, untimed = clock(backbone) + captions.reused_seconds, captions.untimed
            for batch, answers in finished(same, defense, tools, settings):
                # reused captions count with the seconds that they took when they were made
                now = clock(backbone) + captions.reused_seconds
                measured_on = hardware if captions.untimed == untimed else ""
                seconds = (now - begun) / len(batch)
                yield (
                    batch,
                    [
                        s.record(answer, seconds, measured_on)
                        for s, answer in zip(batch, answers, strict=True)
                    ],
                )
                begun = clock(backbone) + captions.reused_seconds
                if (
                    not backbone.refills
                ):  # else a part that runs beside this one may have found the untimed captions
                    untimed = captions.untimed

    def _in_turn(
        self, samples: Sequence[Sample], defense: Defense, tools: Tools, settings: GenerationSettings
    ) -> Iterator[tuple[list[Sample], list[Answer]]]:
        """One batch after the other; the next one's images are read meanwhile."""
        start = 0
        coming = Ahead(_requests)
        while start < len(samples):
            batch = list(samples[start : start + self.size])
            try:
                requests = coming.get(batch, then=samples[start + self.size : start + 2 * self.size])
                answers = answered(defense, tools, requests, settings)
            except torch.OutOfMemoryError as error:
                self.halve(tools.backbone, error)
                continue
            yield batch, answers
            start += len(batch)

    def _side_by_side(
        self, samples: Sequence[Sample], defense: Defense, tools: Tools, settings: GenerationSettings
    ) -> Iterator[tuple[list[Sample], list[Answer]]]:
        """Parts of a batch on threads, as they finish.

        Where prefixes are shared less is under way than fits: between two prompts about an image its prefix lies in the
        cache unused, and must not be evicted when another part begins. After a failure no part is begun, and those that
        are under way are finished.
        """
        width = max(1, self.size // LANES)
        fitting = max(1, self.size // width)
        lanes = max(1, fitting - 1) if defense.shares_prefixes else 2 * fitting
        parts = (list(samples[start : start + width]) for start in range(0, len(samples), width))

        def run(part: list[Sample]) -> tuple[list[Sample], list[Answer]]:
            return part, answered(defense, tools, _requests(part), settings)

        failure: BaseException | None = None
        with ThreadPoolExecutor(lanes, thread_name_prefix="shiftdc-lane") as pool:
            running = {pool.submit(run, part) for part in islice(parts, lanes)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                failure = failure or next((error for future in done if (error := future.exception())), None)
                if failure is None:
                    running |= {pool.submit(run, part) for part in islice(parts, len(done))}
                yield from (future.result() for future in done if future.exception() is None)
        if failure is not None:
            raise failure

    def halve(self, backbone: Backbone, error: torch.OutOfMemoryError) -> None:
        """Halve the batch size after running out of memory.

        Raises:
            ModelError: there is one row only.
        """
        if self.size == 1:
            raise ModelError(
                f"{backbone.name} runs out of memory on a single request; use dtype=bfloat16, device_map=auto "
                "or a shorter caption_max_new_tokens"
            ) from error
        self.size //= 2
        self._most = self.size
        backbone.release()
        torch.cuda.empty_cache()
        logger.warning("out of memory: going on with batch size %d", self.size)

    def fit(
        self, longest: Sample, defense: Defense, settings: GenerationSettings, backbone: Backbone
    ) -> None:
        """Set the batch size from free memory and the longest request, never above a size that has failed."""
        tokens = max(settings.max_new_tokens, getattr(defense, "caption_max_new_tokens", 0))
        fitting = backbone.fitting_rows(longest.request().chat, tokens)
        if fitting is not None:
            self.size = max(1, min(self._most, fitting))
            logger.warning("%s: batch size %d fits into free memory", backbone.name, self.size, extra=ROUTINE)


def _requests(batch: Sequence[Sample]) -> list[Request]:
    return [sample.request() for sample in batch]
