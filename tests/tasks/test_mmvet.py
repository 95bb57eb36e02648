"""MM-Vet: the bare question, capabilities, grading by a judge, and no grade without one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mini_benchmarks as mini
import pytest

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.judges.verdict import Item, Verdict, unscored
from shiftdc_eval.tasks.mmvet import files
from shiftdc_eval.tasks.mmvet.task import MMVet

# typed a second time from the protocol
CAPABILITIES = {"rec": 150, "ocr": 96, "know": 84, "gen": 80, "spat": 75, "math": 26}
COMBINATIONS = {
    "gen_know_rec": 62,
    "rec": 37,
    "ocr_spat": 26,
    "math_ocr_spat": 14,
    "rec_spat": 12,
    "ocr": 12,
    "math_ocr": 11,
    "know_rec": 9,
    "gen_know_ocr_rec": 8,
    "gen_ocr_rec_spat": 8,
    "ocr_rec_spat": 7,
    "ocr_rec": 4,
    "know_ocr_spat": 3,
    "know_rec_spat": 2,
    "gen_ocr_spat": 2,
    "math_ocr_rec_spat": 1,
}


class Grader:
    """Grades 1, 0.5, 0 and then fails, in turn."""

    name = "llm_mmvet"
    kind = "score"
    fingerprint = "0" * 64
    rubric = SimpleNamespace(needs=("request", "reference"))
    grades: Sequence[float | None] = (1.0, 0.5, 0.0, None)

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        self.items = list(items)
        return [
            unscored("score", "no number in the reply")
            if grade is None
            else Verdict(kind="score", value=grade)
            for grade in self.grades[: len(items)]
        ]


def test_the_prompt_is_the_bare_question(mini_data: Path) -> None:
    task = MMVet({"task": "shiftdc_mmvet"})
    (message,) = task.doc_to_messages(task.dataset["test"][0])
    assert message["content"][1]["text"] == "What number is shown?"
    assert task.source.examples[0].reference == "4<OR>four"
    assert task.source.examples[1].groups == {
        "combination": "math_ocr",
        "capability_math": "math",
        "capability_ocr": "ocr",
    }


def test_without_a_grader_answers_are_stored_and_the_reason_says_how_to_grade(
    mini_data: Path, evaluate: Any
) -> None:
    results, _ = evaluate("shiftdc_mmvet", lambda *_: "four")
    row = results["results"]["shiftdc_mmvet"]
    assert row["mmvet_score,none"] == "N/A"
    assert row["unscored,none"] == 4
    sample = results["samples"]["shiftdc_mmvet"][0]
    assert sample["shiftdc_item"]["response"] == "four"
    assert sample["shiftdc_item"]["reference"] == "4<OR>four"
    assert "shiftdc-eval judge" in sample["shiftdc"]["verdicts"]["llm_mmvet"]["reason"]


def test_a_grader_gives_scores_by_capability_and_a_failed_grade_is_unscored(
    mini_data: Path, evaluate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    grader = Grader()
    monkeypatch.setenv("SHIFTDC_JUDGES", "llm_mmvet:model=any")
    monkeypatch.setattr("shiftdc_eval.tasks.judging.judges_for", lambda default: [grader])
    results, _ = evaluate("shiftdc_mmvet", lambda *_: "an answer")
    row = results["results"]["shiftdc_mmvet"]
    assert row["mmvet_score,none"] == pytest.approx(50.0)  # (1 + 0.5 + 0) / 3, the fourth is unscored
    assert row["unscored,none"] == 1
    parts = row["by_capability,none"]["llm_mmvet"]
    assert parts["capability"]["ocr"] == {"mean": 75.0, "scored": 2, "unscored": 0}
    assert parts["capability"]["rec"] == {"mean": 0.0, "scored": 1, "unscored": 1}
    assert parts["combination"]["rec_spat"] == {"mean": "N/A", "scored": 0, "unscored": 1}
    assert grader.items[3].reference == "a circle<AND>a line"


def test_a_keyword_judge_is_no_grader(mini_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFTDC_JUDGES", "keyword_robust")
    task = MMVet({"task": "shiftdc_mmvet"})
    assert [type(judge).__name__ for judge in task.judges] == ["StandIn"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, "item v1_2: 'question' must be a non-empty text"),
        ({"capability": ["smell"]}, "item v1_2: capability must be a list out of rec, ocr"),
        ({"capability": "rec"}, "item v1_2: capability must be a list"),
    ],
)
def test_a_malformed_item_is_named(mini_data: Path, change: dict[str, Any], message: str) -> None:
    path = mini_data / "mmvet/mm-vet.json"
    rows = json.loads(path.read_text())
    rows["v1_2"] |= change
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=message):
        MMVet({"task": "shiftdc_mmvet"})


def test_missing_images_end_a_run_that_asks_for_them_alone(mini_data: Path) -> None:
    (mini_data / "mmvet/images/v1_2.png").unlink()
    MMVet({"task": "shiftdc_mmvet"}).build_all_requests(limit=2)
    said = r"images of 1 of 3 items are missing, the first is .*v1_2\.png\. They are in the authors' archive"
    with pytest.raises(DataError, match=said):
        MMVet({"task": "shiftdc_mmvet"}).build_all_requests(limit=3)


@pytest.mark.slow
def test_a_downloaded_hub_repository_and_the_hub_id_give_the_same_items(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = MMVet({"task": "shiftdc_mmvet"}).source.examples
    mini.write_mmvet_hub(tmp_path / "mmvet")
    monkeypatch.setenv("SHIFTDC_DATA", str(tmp_path))
    copy = MMVet({"task": "shiftdc_mmvet"}).source
    monkeypatch.delenv("SHIFTDC_DATA")
    monkeypatch.setattr(files, "DATASET", str(tmp_path / "mmvet"))
    monkeypatch.setattr(files, "resolve_revision", lambda dataset, benchmark: "e" * 40)
    online = MMVet({"task": "shiftdc_mmvet"}).source
    for source in (copy, online):
        assert [(e.id, e.prompt, e.reference, e.groups) for e in source.examples] == [
            (e.id, e.prompt, e.reference, e.groups) for e in theirs
        ]
    assert online.revision == "e" * 40


def test_the_authors_218_items_have_the_protocols_capabilities(shared: Path) -> None:
    items = files.read_items(shared / "mmvet/mm-vet.json")
    assert [name for name, *_ in items] == [f"v1_{n}" for n in range(218)]
    assert len({texts["imagename"] for _, texts, _ in items}) == 200
    assert Counter(name for *_, names in items for name in names) == CAPABILITIES
    assert Counter("_".join(names) for *_, names in items) == COMBINATIONS
