"""Batches of samples: as many rows as fit into memory, longest requests first."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from shiftdc_eval.backbones import Backbone, GenerationSettings
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.defenses import Defense, Request, Tools
from shiftdc_eval.defenses.answering import answered
from shiftdc_eval.defenses.caption_store import clock
from shiftdc_eval.plugin.prefetch import Ahead
from shiftdc_eval.plugin.requests import Sample

AUTO_BATCH_SIZE = 32
"""Batch size of `auto` if free memory is not measured (CPU)."""
MOST_AUTO = 256
"""Upper bound of the measured batch size: larger ones are hardly faster."""
REFILL_BATCHES = 4
"""Batches per call if the engine refills the rows of finished answers."""
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
            start = 0
            coming = Ahead(_requests)
            while start < len(same):
                width = self._rows_a_call(defense, backbone)
                batch = same[start : start + width]
                begun, untimed = clock(backbone) + captions.reused_seconds, captions.untimed
                try:
                    requests = coming.get(batch, then=same[start + width : start + 2 * width])
                    answers = answered(defense, tools, requests, settings)
                except torch.OutOfMemoryError as error:
                    self.halve(backbone, error)
                    continue
                # reused captions count with the seconds that they took when they were made
                seconds = (clock(backbone) - begun + captions.reused_seconds) / len(batch)
                measured_on = hardware if captions.untimed == untimed else ""
                yield (
                    batch,
                    [
                        s.record(answer, seconds, measured_on)
                        for s, answer in zip(batch, answers, strict=True)
                    ],
                )
                start += len(batch)

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
            logger.warning("%s: batch size %d fits into free memory", backbone.name, self.size)

    def _rows_a_call(self, defense: Defense, backbone: Backbone) -> int:
        """Requests per call: several batches if the engine refills the rows of finished answers, unless the defense
        asks several prompts about each image."""
        refills = backbone.refills and not defense.shares_prefixes
        return self.size * (REFILL_BATCHES if refills else 1)


def _requests(batch: Sequence[Sample]) -> list[Request]:
    return [sample.request() for sample in batch]
