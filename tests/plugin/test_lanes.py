"""Batches on an engine that several threads may ask at a time: parts of a batch run side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from echo_backbone import EchoBackbone

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.plugin.batches import Batches
from shiftdc_eval.plugin.requests import Sample

GREEDY = GenerationSettings(max_new_tokens=4)


class Watched(Settings):
    """Echoes, and notes how much is under way at a time."""

    name: ClassVar[str] = "watched"
    broken: str = ""
    seconds: float = 0.02

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        with LOCK:
            UNDER_WAY.append(len(requests))
            MOST.append(sum(UNDER_WAY))
            BEGUN.extend(request.chat.request for request in requests)
        time.sleep(self.seconds)
        with LOCK:
            UNDER_WAY.remove(len(requests))
        if self.broken and any(request.chat.request == self.broken for request in requests):
            raise ModelError("this request breaks the engine")
        return [Answer(request.chat.request, 1, 1) for request in requests]


class SharesPrefixes(Watched):
    shares_prefixes: ClassVar[bool] = True


LOCK = threading.Lock()
UNDER_WAY: list[int] = []
MOST: list[int] = []
BEGUN: list[str] = []


def sample(number: int) -> Sample:
    return Sample(
        key=f"k{number}",
        task="t",
        doc_id=number,
        repeat=0,
        chat=lambda: Chat.ask(f"request {number}"),
        seed="",
        length=(0, number),
        settings=GREEDY,
        notes=(),
        question="",
        words="",
        image_text=None,
        padding=False,
    )


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    backbone = EchoBackbone(tmp_path / "asked")
    backbone.refills = True
    MOST.clear()
    BEGUN.clear()
    return Tools(cast(Backbone, backbone), CaptionStore(None), cast(Any, None))


@pytest.mark.parametrize(("defense", "most"), [(SharesPrefixes(), 16), (Watched(), 36)])
def test_every_request_is_answered_once_and_no_more_than_fits_is_under_way(
    tools: Tools, defense: Settings, most: int
) -> None:
    found = [
        record
        for _, records in Batches(18, None).answered([sample(at) for at in range(51)], defense, tools)
        for record in records
    ]
    assert sorted(record["text"] for record in found) == sorted(f"request {at}" for at in range(51))
    assert {record["key"]: record["text"] for record in found} == {
        f"k{at}": f"request {at}" for at in range(51)
    }
    assert most / 2 < max(MOST) <= most


def test_what_was_under_way_when_a_request_failed_is_kept(tools: Tools) -> None:
    kept: list[int] = []
    parts = Batches(18, None).answered(
        [sample(at) for at in range(40)], SharesPrefixes(broken="request 38"), tools
    )
    with pytest.raises(ModelError, match="breaks the engine"):
        kept.extend(one.doc_id for batch, _ in parts for one in batch)
    # the longest come first: 39 and 38 are asked together
    assert sorted(f"request {at}" for at in kept) == sorted(set(BEGUN) - {"request 38", "request 39"})
    assert 12 <= len(kept) < 38, "nothing ran beside it, or all that was left was begun"


def test_the_seconds_of_parts_that_overlap_add_up_to_the_time_that_passed(tools: Tools) -> None:
    begun = time.perf_counter()
    found = [
        record["seconds"]
        for _, records in Batches(18, None).answered(
            [sample(at) for at in range(32)], SharesPrefixes(seconds=0.05), tools
        )
        for record in records
    ]
    passed = time.perf_counter() - begun
    assert 0.7 * passed < sum(found) <= passed
    assert passed < 16 * 0.05, "the parts ran one after the other"
