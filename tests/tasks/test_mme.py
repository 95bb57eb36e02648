"""MME: both parsers, scores by hand, pairs, limits, every source of the data."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import mini_benchmarks as mini
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.tasks.mme import files, parse
from shiftdc_eval.tasks.mme.scoring import COGNITION, PERCEPTION, SUBTASKS, Answered, subtask_scores, total
from shiftdc_eval.tasks.mme.task import MME

# typed a second time from the protocol: subtask -> images
IMAGES = {
    "existence": 30,
    "count": 30,
    "position": 30,
    "color": 30,
    "posters": 147,
    "celebrity": 170,
    "scene": 200,
    "landmark": 200,
    "artwork": 200,
    "OCR": 20,
    "commonsense_reasoning": 70,
    "numerical_calculation": 20,
    "text_translation": 20,
    "code_reasoning": 20,
}


def make() -> MME:
    return MME({"task": "shiftdc_mme"})


def test_subtasks_are_the_protocols() -> None:
    assert set(SUBTASKS) == set(IMAGES)
    assert 2 * sum(IMAGES.values()) == 2374
    assert len(PERCEPTION) == 10
    assert set(COGNITION) == set(list(IMAGES)[10:])


@pytest.mark.parametrize(
    ("response", "official", "strict"),
    [
        ("Yes", "yes", "yes"),
        ("no", "no", "no"),
        ("Yes, there is.", "yes", "yes"),
        ("No. There is none.", "no", "no"),
        ("\n yes\n", "yes", "yes"),
        ("**No**", "no", "no"),
        ("Not sure.", "no", "other"),
        ("Now I see a dog.", "no", "other"),
        ("Nobody is there.", "no", "other"),
        ("No one can say.", "no", "other"),
        ("I am sorry", "other", "refusal"),
        ("I'm sorry, but I can't help with that.", "other", "refusal"),
        ("The answer is yes.", "other", "yes"),
        ("It is either yes or no.", "other", "other"),
        ("A dog.", "other", "other"),
        ("", "other", "other"),
    ],
)
def test_how_each_parser_reads_an_answer(response: str, official: str, strict: str) -> None:
    assert parse.official(response) == official
    assert parse.strict(response) == strict


@given(st.text(max_size=40))
def test_both_parsers_read_any_text(text: str) -> None:
    assert parse.official(text) in ("yes", "no", "other")
    assert parse.strict(text) in ("yes", "no", "refusal", "other")


def answers(*rights: tuple[str, str, float | None]) -> list[Answered]:
    return [Answered(*one) for one in rights]


def test_a_subtask_scores_accuracy_and_paired_accuracy() -> None:
    # by hand: 3 of 4 questions right, 1 of 2 images with both right
    scores = subtask_scores(
        answers(("count", "a", 1.0), ("count", "a", 1.0), ("count", "b", 1.0), ("count", "b", 0.0))
    )
    assert scores["count"]["accuracy"] == 0.75
    assert scores["count"]["accuracy_plus"] == 0.5
    assert scores["count"]["score"] == 125.0


def test_an_unscored_answer_leaves_its_question_and_its_pair_out() -> None:
    scores = subtask_scores(
        answers(("count", "a", 1.0), ("count", "a", None), ("count", "b", 1.0), ("count", "b", 1.0))
    )
    assert scores["count"] == {
        "accuracy": 1.0,
        "accuracy_plus": 1.0,
        "score": 200.0,
        "questions": 4,
        "unscored": 1,
        "images_without_twin": 0,
    }


def test_a_question_without_its_twin_counts_in_accuracy_alone() -> None:
    scores = subtask_scores(answers(("count", "a", 1.0), ("count", "a", 1.0), ("count", "b", 0.0)))
    assert scores["count"]["accuracy"] == pytest.approx(2 / 3)
    assert scores["count"]["accuracy_plus"] == 1.0
    assert scores["count"]["images_without_twin"] == 1


def test_totals_are_sums_and_missing_when_a_part_has_no_pair() -> None:
    scores = subtask_scores(
        answers(("count", "a", 1.0), ("count", "a", 1.0), ("OCR", "b", 0.0), ("OCR", "b", 1.0))
    )
    assert total(scores, ["count", "OCR"]) == 250.0
    assert total(scores, PERCEPTION) == total(scores, COGNITION) == "N/A"
    lonely = subtask_scores(answers(("count", "a", 1.0)))
    assert total(lonely, PERCEPTION) == "N/A"


@given(st.lists(st.sampled_from([0.0, 1.0, None]), min_size=2, max_size=40), st.randoms())
def test_the_order_of_answers_does_not_matter(rights: list[float | None], order: random.Random) -> None:
    rows = [Answered(SUBTASKS[n % 3], f"i{n // 2}", right) for n, right in enumerate(rights)]
    shuffled = rows[:]
    order.shuffle(shuffled)
    assert subtask_scores(rows) == subtask_scores(shuffled)


def test_the_prompt_is_the_question_as_it_stands(mini_data: Path) -> None:
    task = make()
    assert len(task.source.examples) == 28
    assert task.source.examples[0].prompt == "Is this about existence? Please answer yes or no."
    assert [one.id for one in task.source.examples[:2]] == [
        "mme/existence/0001.png#yes",
        "mme/existence/0001.png#no",
    ]
    assert len({one.question for one in task.source.examples}) == 14


def test_always_yes_scores_half_the_accuracy_and_no_pair(mini_data: Path, evaluate: Any) -> None:
    results, _ = evaluate("shiftdc_mme", lambda *_: "Yes")
    row = results["results"]["shiftdc_mme"]
    assert row["mme_total,none"] == row["mme_total/mme_strict,none"] == 14 * 50
    assert row["mme_perception,none"] == 500
    assert row["mme_cognition,none"] == 200
    assert row["by_subtask,none"]["mme_official"]["OCR"]["score"] == 50


def test_right_answers_score_2800(mini_data: Path, evaluate: Any) -> None:
    results, _ = evaluate("shiftdc_mme", lambda text, _: "No." if "anything but" in text else "Yes.")
    assert results["results"]["shiftdc_mme"]["mme_total,none"] == 2800


def test_a_no_inside_a_reasoning_block_is_no_answer(mini_data: Path, evaluate: Any) -> None:
    results, _ = evaluate("shiftdc_mme", lambda *_: "<think>No, wait.\nNo.</think>\n\nYes")
    row = results["results"]["shiftdc_mme"]
    assert row["mme_total,none"] == row["mme_total/mme_strict,none"] == 14 * 50  # as for an answer "Yes"
    results, _ = evaluate("shiftdc_mme", lambda *_: "<think>No, there is no")
    assert results["results"]["shiftdc_mme"]["unscored,none"] == 28


@pytest.mark.parametrize(
    "response",
    [
        'It is a sign that says "no smoking".',
        "A sign that says no smoking.",
        '"No smoking" is what the sign says.',
        "The bottle reads: No. 5",
        "The perfume is No. 5.",
    ],
)
def test_the_words_of_a_sign_are_no_answer(response: str) -> None:
    assert parse.strict(response) == "other"
    assert parse.strict(f"Yes. {response}") == "yes"


@pytest.mark.parametrize("response", ['"No"', "'No.'", "There is no dog.", "No, it says yes."])
def test_a_no_of_the_answers_own_is_one(response: str) -> None:
    assert parse.strict(response) == "no"


def test_a_refusal_is_counted_as_one_and_a_hedge_is_not_a_no(mini_data: Path, evaluate: Any) -> None:
    results, _ = evaluate("shiftdc_mme", lambda text, _: "Not sure." if "but" in text else "I am sorry")
    row = results["results"]["shiftdc_mme"]
    assert row["refusal_rate,none"] == 0.5
    assert row["no_answer_rate,none"] == 0.5
    assert row["mme_total/mme_strict,none"] == 0
    assert row["mme_total,none"] == 14 * 50  # the official parser takes "Not sure" for a no
    verdict = results["samples"]["shiftdc_mme"][0]["shiftdc"]["verdicts"]["mme_strict"]
    assert (verdict["kind"], verdict["value"], verdict["reason"]) == ("score", 0.0, "refusal")


def test_an_odd_limit_gives_a_documented_partial_score(
    mini_data: Path, evaluate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        results, _ = evaluate("shiftdc_mme", lambda *_: "Yes", limit=3)
    assert "1 images have only one of their two questions" in caplog.text
    row = results["results"]["shiftdc_mme"]
    assert row["by_subtask,none"]["mme_official"]["count"]["images_without_twin"] == 1
    assert row["mme_total,none"] == "N/A"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Is it? Yes\n", r"0001\.txt, line 1: expected a question, a tab and an answer"),
        ("Is it?\tMaybe\n", r"0001\.txt, line 1: the answer must be yes or no, found 'Maybe'"),
        ("Is it?\tYes\nIs it so?\tyes\n", "id 'mme/OCR/0001.png#yes' appears twice"),
    ],
)
def test_a_malformed_question_file_is_named(mini_data: Path, text: str, message: str) -> None:
    (mini_data / "mme/MME_Benchmark/OCR/0001.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        make()


def test_questions_without_their_image_are_named(mini_data: Path) -> None:
    (mini_data / "mme/MME_Benchmark/OCR/0001.png").unlink()
    with pytest.raises(DataError, match=r"images of 2 of 28 items are missing, the first is .*OCR/0001\.jpg"):
        make().build_all_requests()


@pytest.mark.slow
def test_a_downloaded_hub_repository_gives_the_same_items(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = make().source.examples
    mini.write_mme_hub(tmp_path / "mme")
    monkeypatch.setenv("SHIFTDC_DATA", str(tmp_path))
    ours = make().source
    assert [(one.id, one.prompt, one.reference) for one in ours.examples] == [
        (one.id, one.prompt, one.reference) for one in theirs
    ]
    assert ours.examples[0].image is not None
    assert ours.examples[0].image().size == (96, 64)
    assert ours.dataset == "local copy of lmms-lab-encoder/MME"


@pytest.mark.slow
def test_the_hub_id_is_loaded_at_the_pinned_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini.write_mme_hub(tmp_path)
    monkeypatch.delenv("SHIFTDC_DATA", raising=False)
    monkeypatch.setattr(files, "DATASET", str(tmp_path))
    source = make().source
    assert len(source.examples) == 28
    assert source.revision == "d6c9023f017b564f7b3ccccf5348166bce8fdbcd"
