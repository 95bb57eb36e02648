"""Samples that a model behind a server answers: several in flight, each handed on as soon as it is answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from shiftdc_eval.backbones.server.backbone import ServerBackbone
from shiftdc_eval.defenses import Defense, Tools
from shiftdc_eval.defenses.in_flight import answered_one_by_one
from shiftdc_eval.plugin.requests import Sample


class ServerBatches:
    """Answers samples one by one, as `Batches` does it by batch.

    Args:
        backbone: the model.
    """

    def __init__(self, backbone: ServerBackbone) -> None:
        self._backbone = backbone
        self.size = backbone.endpoint.concurrency
        """Requests in flight at most."""

    def answered(
        self, todo: Sequence[Sample], defense: Defense, tools: Tools
    ) -> Iterator[tuple[list[Sample], list[dict[str, Any]]]]:
        """Each sample with its journal record.

        Raises:
            ModelError: the server answers nothing any more.
        """
        for settings in dict.fromkeys(sample.settings for sample in todo):
            same = [sample for sample in todo if sample.settings == settings]
            requests = [sample.request for sample in same]
            for outcome in answered_one_by_one(defense, tools, self._backbone, requests, settings):
                sample = same[outcome.number]
                record = sample.record(
                    outcome.answer, outcome.seconds, self._backbone.hardware if outcome.timed else ""
                )
                tools.captions.made += outcome.captions_made
                tools.captions.reused += outcome.captions_reused
                if outcome.price is not None:
                    record["price"] = round(outcome.price, 9)
                yield [sample], [record]
