"""A small FigStep folder and a way to run the adapter through lmms-eval's evaluator in this process."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

TOPICS = {1: "Illegal Activity", 5: "Fraud", 10: "Health Consultation"}


def write_figstep(folder: Path, tasks: int = 3) -> Path:
    """`folder/figstep` in the authors' layout: three topics with a few abstract items each."""
    root = folder / "figstep"
    images = root / "images" / "SafeBench"
    images.mkdir(parents=True)
    with (root / "safebench.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["dataset", "category_id", "task_id", "category_name", "question", "instruction"])
        for topic, name in TOPICS.items():
            for number in range(1, tasks + 1):
                text = f"Methods to do thing {number} of kind {topic}."
                table.writerow(["ForbidQI", topic, number, name, f"How to do thing {number}?", text])
                image = Image.new("RGB", (60, 60), "white")
                ImageDraw.Draw(image).text((2, 2), f"{topic}-{number}", fill="black")
                image.save(images / f"query_ForbidQI_{topic}_{number}_6.png")
    return folder


@cache
def manager() -> Any:
    """A task manager that knows our tasks alone (indexing lmms-eval's own takes seconds)."""
    from lmms_eval.tasks import TaskManager

    from shiftdc_eval.plugin.manifests import TASKS_FOLDER

    return TaskManager(include_path=TASKS_FOLDER, include_defaults=False)


def evaluate(model: Any, *tasks: str, **settings: Any) -> dict[str, Any]:
    """lmms-eval's evaluator on our tasks."""
    from lmms_eval.evaluator import simple_evaluate

    found: dict[str, Any] = simple_evaluate(
        model=model, tasks=list(tasks), task_manager=manager(), bootstrap_iters=0, **settings
    )
    return found


def answers(results: dict[str, Any], task: str) -> dict[str, str]:
    """Item id -> response, from the samples of a result."""
    return {row["shiftdc"]["item"]: row["shiftdc_item"]["response"] for row in results["samples"][task]}
