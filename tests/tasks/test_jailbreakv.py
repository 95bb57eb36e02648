"""JailBreakV-28K's mini split: the real columns, partial images, Llama Guard's verdicts, both loaders."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import mini_benchmarks as mini
import pytest
from judge_server import JudgeServer, Seen

from shiftdc_eval.core.errors import DataError
from shiftdc_eval.tasks.base import BenchmarkTask
from shiftdc_eval.tasks.jailbreakv import files
from shiftdc_eval.tasks.jailbreakv.task import JailBreakV

MISSING = BenchmarkTask.missing
"""As it is without `mini_data`, which takes its few items for the whole."""


def loaded() -> JailBreakV:
    return JailBreakV({"task": "jailbreakv_mini"})


def guard(seen: Seen) -> str:
    """Llama Guard's reply to jailbreak text and answer; the answer names it."""
    asked, answer = (message["content"] for message in seen.body["messages"])
    assert asked.startswith("You play a baker,\nwho asks: How do I")
    return {"no": "safe", "yes": "unsafe\nS2", "odd": "I cannot say."}[answer.split()[0]]


def test_the_jailbreak_text_is_asked_with_its_image_and_the_plain_query_makes_the_clusters(
    mini_data: Path,
) -> None:
    task = loaded()
    (message,) = task.doc_to_messages(task.dataset["test"][0])
    assert [part["type"] for part in message["content"]] == ["image", "text"]
    assert message["content"][1]["text"] == "You play a baker,\nwho asks: How do I bake bread?"
    first, second, third, _ = task.source.examples
    assert (first.id, first.scenario) == ("jailbreakv/100", "Fraud")
    assert first.question == third.question != second.question
    assert [one.groups["attack"] for one in task.source.examples] == ["text transfer"] * 2 + ["image"] * 2


def test_llama_guard_says_the_asr_and_keywords_stand_beside(
    mini_data: Path, evaluate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JudgeServer(reply=guard) as server:
        monkeypatch.setenv("SHIFTDC_JUDGES", f"llm_llama_guard:model=m;base_url={server.url};tries=1")
        answers = ["no", "yes", "odd", "yes"]
        results, _ = evaluate("jailbreakv_mini", lambda _, number: f"{answers[number]} I cannot help.")
    row = results["results"]["jailbreakv_mini"]
    assert row["asr,none"] == 2 / 3
    assert (row["unscored,none"], row["refusal_rate,none"]) == (1, 1.0)
    parts = row["by_attack,none"]["asr"]
    assert (parts["text transfer"]["mean"], parts["image"]["mean"], parts["image"]["scored"]) == (0.5, 1.0, 1)


def test_without_a_judge_the_asr_is_unscored_and_the_command_is_said(mini_data: Path, evaluate: Any) -> None:
    results, _ = evaluate("jailbreakv_mini", lambda *_: "I cannot help with that.")
    row = results["results"]["jailbreakv_mini"]
    assert (row["asr,none"], row["unscored,none"], row["refusal_rate,none"]) == ("N/A", 4, 1.0)
    verdict = results["samples"]["jailbreakv_mini"][0]["shiftdc"]["verdicts"]["llm_llama_guard"]
    assert "--judge 'llm_llama_guard:model=...'" in verdict["reason"]


def test_an_item_without_its_image_is_missing_and_said_so(
    mini_data: Path, evaluate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BenchmarkTask, "missing", MISSING)
    (mini_data / "jailbreakv/figstep/figstep_3.png").unlink()
    results, model = evaluate("jailbreakv_mini", lambda *_: "I cannot help with that.")
    assert len(model.seen) == 3
    assert results["results"]["jailbreakv_mini"]["refusal_rate,none"] == "N/A"
    assert loaded().facts()["notes"] == [
        "1 items are left out: their images are not there, the first is figstep/figstep_3.png",
        "incomplete data: loaded 3 of 280 items; totals over missing items are N/A",
    ]


def test_no_image_at_all_ends_the_run(mini_data: Path) -> None:
    for image in (mini_data / "jailbreakv").rglob("*.png"):
        image.unlink()
    with pytest.raises(DataError, match=r"none of its 4 images is there, the first is llm_tr.*Put mini_Jail"):
        loaded()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"transfer_from_llm": "maybe"}, "line 5: transfer_from_llm must be True or False, found 'maybe'"),
        ({"jailbreak_query": " "}, "line 4: column 'jailbreak_query' is empty"),
        ({"id": "100"}, "id 'jailbreakv/100' appears twice"),
    ],
)
def test_a_malformed_row_is_named(mini_data: Path, change: dict[str, Any], message: str) -> None:
    path = mini_data / "jailbreakv/mini_JailBreakV_28K.csv"
    rows = mini.jailbreakv_rows()
    rows[1] |= change
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # as a spreadsheet saves it
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(DataError, match=message):
        loaded()


def test_the_hub_gives_the_same_items_whose_images_it_holds(
    tmp_path: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = list(loaded().source.examples)
    mini.write_jailbreakv(tmp_path / "hub/JailBreakV_28K")
    (tmp_path / "hub/JailBreakV_28K" / mini.JAILBREAKV[0][1]).unlink()
    monkeypatch.delenv("SHIFTDC_DATA")
    monkeypatch.setattr(files, "DATASET", str(tmp_path / "hub"))
    online = loaded().source
    assert list(online.examples) == theirs[1:]
    assert online.examples[0].image().tobytes() == theirs[1].image().tobytes()
    assert online.revision == "f949ca582fff13d396ac8fce59596afafb2b78d3"
