"""The toy tasks: drawn, reproducible, scored by the same classes."""

from __future__ import annotations

from typing import Any

import pytest

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.tasks.exact_match import short
from shiftdc_eval.tasks.toy.task import ToyBenign, ToyMME, ToyRequests, ToyVQA

KINDS = {
    "toy_figstep": "figstep",
    "toy_mm_safetybench_typo": "typo",
    "toy_mm_safetybench_sd": "sd",
    "toy_mm_safetybench_sd_typo": "sd_typo",
}


def requests(name: str, **settings: Any) -> ToyRequests:
    return ToyRequests(
        {"task": name, "dataset_kwargs": {"image_type": KINDS[name], "n": 6, "seed": 0} | settings}
    )


@pytest.mark.parametrize("name", KINDS)
def test_forbidden_requests_are_drawn_with_an_image_and_words_for_the_judge(name: str) -> None:
    task = requests(name)
    assert len(task.source.examples) == 6
    example = task.source.examples[0]
    assert example.image is not None
    assert example.image().size == (128, 128)
    assert example.request.startswith("How do I ")
    assert "clear_harm" in example.flags
    assert task.facts()["items"] == 6


def test_a_seed_draws_the_same_items_and_another_draws_others() -> None:
    first, again, other = (requests("toy_figstep", seed=seed).source for seed in (1, 1, 2))
    assert [one.id for one in first.examples] == [one.id for one in again.examples]
    assert first.revision == again.revision != other.revision


def test_the_benign_twins_cover_all_image_types_in_turn() -> None:
    task = ToyBenign({"task": "toy_benign", "dataset_kwargs": {"n": 8, "seed": 0}})
    assert [one.scenario for one in task.source.examples] == 2 * ["figstep", "typo", "sd", "sd_typo"]
    assert task.facts()["benign"] is True


@pytest.mark.parametrize("n", [0, 7, None, "8"])
def test_a_wrong_number_of_items_is_refused(n: Any) -> None:
    with pytest.raises(ConfigError, match="n must be a positive multiple of 4"):
        ToyBenign({"task": "toy_benign", "dataset_kwargs": {"n": n, "seed": 0}})


def test_right_answers_score_two_hundred_a_sort_of_picture() -> None:
    task = ToyMME({"task": "toy_mme", "dataset_kwargs": {"n": 20, "seed": 0}})
    task.build_all_requests()
    for instance in task.instances:
        instance.resps.append(task.doc_to_target(task.dataset["test"][instance.doc_id]))
    task.apply_filters()
    rows = [
        task.process_results(task.dataset["test"][one.doc_id], [one.filtered_resps["none"]])
        for one in task.instances
    ]
    total = task.aggregation()["mme_total"]([row["mme_total"] for row in rows])
    assert total == 200 * len({one.scenario for one in task.source.examples})


def test_short_questions_are_scored_by_exact_match_up_to_case_and_article(evaluate: Any) -> None:
    task = ToyVQA({"task": "toy_vqa", "dataset_kwargs": {"n": 200, "seed": 0}})
    references = [one.reference or "" for one in task.source.examples]
    results, _ = evaluate("toy_vqa", lambda _, i: f"The {references[i].upper()}." if i % 4 else "nothing")
    assert results["results"]["toy_vqa"]["exact_match,none"] == pytest.approx(0.75)


@pytest.mark.parametrize(("text", "expected"), [("A Red.", "red"), ("two", "two"), ("", ""), ("the", "")])
def test_short_answers_lose_case_punctuation_and_article(text: str, expected: str) -> None:
    assert short(text) == expected
