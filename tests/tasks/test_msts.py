"""MSTS: eleven languages, refusal rules of each, both loaders, the text twin, and the authors' prompts and labels."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.error import URLError

import mini_benchmarks as mini
import pytest

from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.judges.human_labels import read_labels
from shiftdc_eval.tasks.msts import files
from shiftdc_eval.tasks.msts.facts import LANGUAGES
from shiftdc_eval.tasks.msts.task import MSTS

REFUSALS = {
    "english": "I cannot help with that.",
    "german": "Dabei kann ich nicht helfen.",
    "french": "Je ne peux pas vous aider avec cela.",
}


def msts(name: str = "msts", **settings: Any) -> MSTS:
    return MSTS({"task": name, "dataset_kwargs": settings})


def test_the_bare_english_prompts_are_asked_by_default(mini_data: Path) -> None:
    task = msts()
    assert [one.id for one in task.source.examples] == [
        f"msts/en/case_000{case}/{kind}" for kind in ("assistance", "intention") for case in (1, 2)
    ]
    (message,) = task.doc_to_messages(task.dataset["test"][1])
    assert message["content"][1]["text"] == "Should I go there?"
    assert task.image_text(task.dataset["test"][1]) == "a closed road 2"
    assert task.source.examples[1].image().size == (96, 64)  # a .png
    assert [judge.name for judge in task.judges] == ["keyword_robust", "keyword_shiftdc"]


def test_a_yaml_of_another_name_chooses_languages_and_has_their_size(mini_data: Path) -> None:
    task = msts("msts_de_fr", languages=["de", "fr"])
    assert [one.prompt for one in task.source.examples] == [
        text for name in ("german", "french") for text in [mini.MSTS[name]] * 2
    ]
    assert task.info.size == 400  # 200 each; English alone has 400
    assert msts("msts_en_de", languages=["en", "de"]).info.size == 600
    assert task.judges[0].name == "keyword_multilingual"


@pytest.mark.parametrize(
    ("languages", "message"),
    [(["pt"], "MSTS has no prompts in 'pt'; it has en, de, ru"), (["germn"], "'germn' is no language")],
)
def test_an_unknown_language_is_named(mini_data: Path, languages: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        msts("msts_other", languages=languages)


def test_refusals_are_found_in_their_language_and_lists_of_another_leave_them_unscored(
    mini_data: Path, evaluate: Callable[..., Any]
) -> None:
    by_prompt = {text: REFUSALS.get(name, REFUSALS["english"]) for name, text in mini.MSTS.items()}
    results, model = evaluate("msts_multilingual", lambda text, _: by_prompt.get(text, REFUSALS["english"]))
    assert len(model.seen) == 2 * 11 + 2
    samples = {row["shiftdc"]["item"]: row["shiftdc"] for row in results["samples"]["msts_multilingual"]}
    for code, name in (("de", "german"), ("fr", "french"), ("en", "english")):
        sample = samples[f"msts/{code}/case_0001/assistance"]
        assert sample["groups"]["language"] == name
        assert sample["verdicts"]["keyword_multilingual"]["value"] == "refused"
    german = samples["msts/de/case_0001/assistance"]["verdicts"]["keyword_shiftdc"]
    assert (german["value"], german["reason"]) == (None, "language: German")
    assert samples["msts/en/case_0001/assistance"]["verdicts"]["keyword_shiftdc"]["value"] == "refused"


def test_the_text_twin_has_the_authors_words_and_no_images(mini_data: Path) -> None:
    task = msts("msts_text_only")
    assert {one.prompt for one in task.source.examples} == {"Should I go to a closed road?"}
    assert all(one.image is None and one.image_text is None for one in task.source.examples)
    assert "not the benchmark" in task.source.notes[0]


def test_without_a_folder_the_text_twin_is_fetched_at_its_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SHIFTDC_DATA", raising=False)
    monkeypatch.setenv("SHIFTDC_CACHE", str(tmp_path))
    with (
        patch("urllib.request.urlopen", side_effect=URLError("offline")),
        pytest.raises(DataError, match="e9ae69e8f1ab87ab2bb2ed7c51e992e0430f12e3.*english_textonly.csv"),
    ):
        msts("msts_text_only")


def test_the_hub_gives_the_same_items(
    mini_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = msts("msts_two", languages=["en", "ko"]).source.examples
    mini.write_msts_hub(tmp_path / "hub", ["english", "korean"])
    monkeypatch.delenv("SHIFTDC_DATA")
    monkeypatch.setattr(files, "DATASET", str(tmp_path / "hub"))
    online = msts("msts_two", languages=["en", "ko"]).source
    assert list(online.examples) == list(theirs)
    assert online.examples[5].image().size == (96, 64)
    assert online.revision == "9630ca3cb6251749ca52fee51e68a21943b23067"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("assistance", "advice"),
            "line 2: prompt_type must be one of assistance, intention, found 'advice'",
        ),
        (("Should I go there?", ""), "line 2: column 'prompt_text' is empty"),
        (("unsafe_image_id", "image"), "line 1: column 'unsafe_image_id' is missing"),
        (("case_0002", "case_0001"), "id 'msts/en/case_0001/assistance' appears twice"),
    ],
)
def test_a_malformed_file_is_named(mini_data: Path, change: tuple[str, str], message: str) -> None:
    path = mini_data / "msts/english_multimodal.csv"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(DataError, match=message):
        msts()


def test_a_language_without_a_file_and_a_missing_image_are_named(mini_data: Path) -> None:
    (mini_data / "msts/farsi_multimodal.csv").unlink()
    with pytest.raises(DataError, match=r"has no farsi_multimodal\.csv, but files of other languages"):
        msts("msts_two", languages=["en", "fa"])
    (mini_data / "msts/images/unsafe_image_0001.jpg").unlink()
    with pytest.raises(
        DataError, match=r"images of 2 of 4 items are missing, the first is .*unsafe_image_0001\.jpg"
    ):
        msts().build_all_requests()


def test_the_authors_prompts_have_the_counts_of_their_files(shared: Path) -> None:
    task = msts("msts_multilingual", languages=list(LANGUAGES))
    assert not task.missing()
    english = [one for one in task.source.examples if one.groups["language"] == "english"]
    assert Counter(one.scenario for one in english) == {
        "Non-Violent Crimes": 140,
        "Suicide & Self-Harm": 80,
        "Violent Crimes": 70,
        "Sex-Related Crimes": 60,
        "Other": 50,
    }
    counts = Counter(one.groups["language"] for one in task.source.examples)
    assert counts == dict.fromkeys(LANGUAGES.values(), 200) | {"english": 400}
    assert len({one.question for one in task.source.examples}) == 200


@pytest.mark.parametrize("name", ["english", "german", "arabic"])
def test_the_authors_labels_are_read_for_a_judge_of_harm(shared: Path, name: str) -> None:
    path = shared / "msts" / f"responses_{name}.csv"
    label = "final_label" if name == "english" else "annot1_label"
    with path.open(encoding="utf-8", newline="") as file:
        cells = [row[label] for row in csv.DictReader(file)]
    unsafe = {cell for cell in cells if cell.startswith("2")}
    mapping = dict.fromkeys(unsafe, "unsafe") | {"*": "safe"}
    columns = {"label": label, "request": "prompt_text", "model": "model"}
    found = read_labels([path], "harm", columns, mapping)
    assert [one.label for one in found] == ["unsafe" if cell in unsafe else "safe" for cell in cells]
    assert len({one.model for one in found}) == (5 if name == "english" else 2)
