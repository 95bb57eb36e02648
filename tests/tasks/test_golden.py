"""What every benchmark asks on its mini version, word for word, against golden files.

`SHIFTDC_UPDATE_GOLDEN=1 pytest tests/tasks/test_golden.py` writes them anew: read the difference before
committing it, because another prompt is another task version.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.tasks import TaskManager

from shiftdc_eval.tasks.catalogue import TASKS

from .conftest import any_font

GOLDEN = Path(__file__).with_name("golden")


@pytest.mark.parametrize("name", [name for name in TASKS if not name.startswith("toy_")])
def test_a_task_asks_what_its_golden_file_says(
    name: str, mini_data: Path, manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIFTDC_FONT", str(any_font()))
    task: Any = manager.load_task_or_group(name, task_type="chat")[name]
    asked = [
        {
            "id": one.id,
            "question": one.question,
            "prompt": one.prompt,
            "request": one.request,
            "scenario": one.scenario,
            "reference": one.reference,
            "groups": dict(one.groups),
            "flags": list(one.flags),
            "image": None if one.image is None else list(one.image().size),
        }
        for one in list(task.source.examples)[:30]
    ]
    path = GOLDEN / f"{name}.json"
    found = json.dumps({"generation": task.config.generation_kwargs, "asked": asked}, indent=1) + "\n"
    if os.environ.get("SHIFTDC_UPDATE_GOLDEN"):
        path.write_text(found, encoding="utf-8", newline="\n")
    assert found == path.read_text(encoding="utf-8")
