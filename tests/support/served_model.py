"""Prompts put to a model behind a server, through the lmms-eval adapter and without a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judge_server import JudgeServer
from lmms_eval.api.instance import Instance

from shiftdc_eval.backbones import Chat
from shiftdc_eval.core.records import RunRecord
from shiftdc_eval.plugin.adapter import ShiftDCServer


@dataclass
class Given:
    """What became of one prompt."""

    text: str
    why: str
    """Why there is no answer."""


def ask_server(
    server: JudgeServer,
    prompts: Sequence[str | Chat],
    journal: Path,
    gen_kwargs: dict[str, Any] | None = None,
    **arguments: Any,
) -> list[Given]:
    """What the model answers; journal and run record lie in `journal`."""
    given = {
        **{"model": "judge-1", "base_url": server.url, "defense": "none", "journal": journal},
        **{"concurrency": 3, "tries": 2, "backoff": 0.01, "patience": 0.05, "timeout": 20, **arguments},
    }
    words = ",".join(f"{name}={value}" for name, value in given.items())
    model = ShiftDCServer.create_from_arg_string(words, {"batch_size": "1", "device": None})
    model.task_dict = {"given": {"test": list(range(len(prompts)))}}

    def messages(at: int) -> list[dict[str, Any]]:
        prompt = prompts[at]
        if isinstance(prompt, str):
            return [{"role": "user", "content": prompt}]
        return [
            {
                "role": turn.role,
                "content": [
                    {"type": "text", "text": part}
                    if isinstance(part, str)
                    else {"type": "image", "url": part}
                    for part in turn.parts
                ],
            }
            for turn in prompt.turns
        ]

    requests = [
        Instance(
            request_type="generate_until",
            arguments=("", messages, {"max_new_tokens": 64, **(gen_kwargs or {})}, at, "given", "test"),
            idx=0,
            metadata={"task": "given", "doc_id": at, "repeats": 1},
        )
        for at in range(len(prompts))
    ]
    results = model.generate_until(requests)
    said = [request.metadata["__shiftdc_made__"][0]["unanswered"] for request in requests]
    return [Given(one.text, why) for one, why in zip(results, said, strict=True)]


def run_records(folder: Path) -> list[RunRecord]:
    """The run records of a folder, in the order they were written."""
    paths = sorted(folder.glob("run-*.json"), key=lambda path: path.stat().st_mtime_ns)
    return [RunRecord.model_validate_json(path.read_text()) for path in paths]
