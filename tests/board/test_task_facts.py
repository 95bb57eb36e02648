"""What tasks tell the board: whether a score is utility, and which model judged."""

from __future__ import annotations

from typing import Any

import pytest

from shiftdc_eval.judges.verdict import Verdict
from shiftdc_eval.tasks.toy.task import ToyRequests, ToyVQA


@pytest.mark.parametrize(
    ("kind", "name", "settings", "utility"),
    [
        (ToyVQA, "toy_vqa", {}, True),
        (ToyRequests, "toy_figstep", {"image_type": "figstep"}, False),
    ],
)
def test_a_task_says_whether_its_scores_are_utility(
    kind: Any, name: str, settings: dict[str, Any], utility: bool
) -> None:
    task = kind({"task": name, "dataset_kwargs": {"n": 2, "seed": 0} | settings})
    assert task.facts()["utility"] is utility


def test_a_sample_row_names_the_model_that_judged() -> None:
    task = ToyRequests(
        {"task": "toy_figstep", "dataset_kwargs": {"n": 1, "seed": 0, "image_type": "figstep"}}
    )
    judge = task.judges[0].name
    verdict = Verdict(kind="refusal", value="refused", model="judge-model-2")
    example = task.source.examples[0]
    field = task._sample_field(example, 0, "No.", {judge: verdict})
    assert field.verdicts[judge].model == "judge-model-2"
