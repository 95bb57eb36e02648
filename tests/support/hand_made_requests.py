"""Chats through the lmms-eval adapter without a task: requests made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance

from shiftdc_eval.backbones import Backbone, Chat
from shiftdc_eval.plugin.adapter import ShiftDCVlm


def through_the_adapter(
    backbone: Backbone, chats: Sequence[Chat], journal: Path, *, max_new_tokens: int = 8, **arguments: Any
) -> list[str]:
    """What the adapter answers; journal and run record lie in `journal`."""
    lm = ShiftDCVlm(backbone, pretrained=backbone.name, batch_size=2, journal=journal, **arguments)
    lm.task_dict = {"given": {"test": list(range(len(chats)))}}

    def ask(index: int) -> list[dict[str, Any]]:
        images = [{"type": "image", "url": image} for image in chats[index].images]
        return [{"role": "user", "content": [*images, {"type": "text", "text": chats[index].request}]}]

    requests = [
        Instance(
            request_type="generate_until",
            arguments=("", ask, {"max_new_tokens": max_new_tokens}, at, "given", "test"),
            idx=0,
            metadata={"task": "given", "doc_id": at, "repeats": 1},
        )
        for at in range(len(chats))
    ]
    return [result.text for result in lm.generate_until(requests)]
