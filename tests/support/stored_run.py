"""A results folder as lmms-eval leaves it, with answers to judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shiftdc_eval.core.hashing import text_sha256
from shiftdc_eval.core.records import SampleField

Rows = list[dict[str, Any]]


def row(number: int, response: str | None, **more: Any) -> dict[str, Any]:
    field = SampleField(
        item=f"figstep/1_{number}",
        question=f"1_{number}",
        prompt_sha256=text_sha256("the prompt"),
        response_sha256=None if response is None else text_sha256(response),
        run="r1",
        groups={"topic": "1"},
    )
    item = {"request": f"request {number}", "prompt": "the prompt", "response": response, "scenario": ""}
    return {
        "doc_id": number,
        "resps": [[response]],
        "filtered_resps": [response or ""],
        "doc_hash": "h",
        "shiftdc": field.model_dump(),
        "shiftdc_item": {**item, "reference": None},
        **more,
    }


def write_run(folder: Path, rows: Rows) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
    (folder / "20260101_000000_samples_figstep_tiny.jsonl").write_text(lines, encoding="utf-8")
    return folder


def samples(folder: Path) -> Rows:
    [path] = folder.rglob("*_samples_*.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
