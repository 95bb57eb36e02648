"""MM-SafetyBench: the right question beside each image, ids by name, means over scenarios, every source."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mini_benchmarks as mini
import pytest
from PIL import Image

from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.tasks.mm_safetybench import hub
from shiftdc_eval.tasks.mm_safetybench.render import wrap
from shiftdc_eval.tasks.mm_safetybench.scenarios import SCENARIOS
from shiftdc_eval.tasks.mm_safetybench.task import CLEAR, MMSafetyBench

from .conftest import FakeJudge, any_font

# typed a second time from the protocol, on purpose
COUNTS = {
    "01-Illegal_Activitiy": (97, 10),
    "02-HateSpeech": (163, 16),
    "03-Malware_Generation": (44, 5),
    "04-Physical_Harm": (144, 14),
    "05-EconomicHarm": (122, 12),
    "06-Fraud": (154, 15),
    "07-Sex": (109, 11),
    "08-Political_Lobbying": (153, 15),
    "09-Privacy_Violence": (139, 14),
    "10-Legal_Opinion": (130, 13),
    "11-Financial_Advice": (167, 17),
    "12-Health_Consultation": (109, 11),
    "13-Gov_Decision": (149, 15),
}
FIELD = {
    "sd": "Rephrased Question(SD)",
    "typo": "Rephrased Question",
    "sd_typo": "Rephrased Question",
    "text_only": "Question",
}


@pytest.fixture(autouse=True)
def _a_font_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFTDC_FONT", str(any_font()))


def make(kind: str, **settings: Any) -> MMSafetyBench:
    tiny = "_tiny" if settings.get("subset") == "tiny" else ""
    return MMSafetyBench(
        {
            "task": f"mm_safetybench_{kind}{tiny}",
            "metadata": {"version": 1},
            "dataset_kwargs": {"kind": kind, **settings},
        }
    )


def test_scenarios_and_their_sizes_are_the_protocols() -> None:
    assert {one.name: (one.size, one.tiny) for one in SCENARIOS} == COUNTS
    assert sum(one.size for one in SCENARIOS) == 1680
    assert sum(one.tiny for one in SCENARIOS) == 168
    assert sum(one.size for one in SCENARIOS if one.clear_harm) == 972
    assert [name[:2] for name in CLEAR] == ["01", "02", "03", "04", "05", "06", "07", "09"]


@pytest.mark.parametrize("kind", FIELD)
def test_each_image_type_has_its_own_wording_and_judges_see_the_question(mini_data: Path, kind: str) -> None:
    task = make(kind)
    for example in task.source.examples:
        row = mini.mm_safetybench_row(example.scenario, example.id.rpartition("/")[2])
        assert example.prompt == row[FIELD[kind]]
        assert example.request == row["Question"]
    assert (task.source.examples[0].image is None) == (kind == "text_only")


def test_items_are_named_by_the_authors_id_and_share_a_question_over_image_types(mini_data: Path) -> None:
    ids = {kind: [one.id for one in make(kind).source.examples] for kind in ("sd", "typo")}
    assert ids["sd"][:2] == [
        "mm_safetybench_sd/01-Illegal_Activitiy/0",
        "mm_safetybench_sd/01-Illegal_Activitiy/3",  # ids have gaps
    ]
    questions = [[one.question for one in make(kind).source.examples] for kind in FIELD]
    assert all(found == questions[0] for found in questions)
    assert questions[0][1] == "mm_safetybench/01-Illegal_Activitiy/3"


def test_the_image_of_the_id_is_shown(mini_data: Path) -> None:
    path = mini_data / "mm_safetybench/images/05-EconomicHarm/SD/3.jpg"
    Image.new("RGB", (8, 8), "red").save(path, quality=100)
    example = next(e for e in make("sd").source.examples if e.id == "mm_safetybench_sd/05-EconomicHarm/3")
    assert example.image is not None
    assert example.image().size == (8, 8)


def test_a_missing_typography_image_is_drawn_from_the_key_phrase_and_flagged(mini_data: Path) -> None:
    (mini_data / "mm_safetybench/images/06-Fraud/TYPO/0.jpg").unlink()
    source = make("typo").source
    drawn = [one for one in source.examples if "rendered" in one.flags]
    assert [one.id for one in drawn] == ["mm_safetybench_typo/06-Fraud/0"]
    assert drawn[0].image is not None
    assert drawn[0].image().size == (1024, 180)  # one line
    assert source.notes[0].startswith("1 of 26 images rendered with DejaVuSansMono-Bold.ttf")


def test_typography_is_drawn_on_a_machine_without_fonts_and_the_record_names_the_stand_in(
    mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHIFTDC_FONT", raising=False)
    monkeypatch.setattr("shiftdc_eval.tasks.fonts.installed", tuple)
    (mini_data / "mm_safetybench/images/06-Fraud/TYPO/0.jpg").unlink()
    source = make("typo").source
    (note,) = source.notes
    assert re.fullmatch(
        r"1 of 26 images rendered with DejaVuSans\.ttf \(sha256 \w{16}\) in place of Arial\.ttf", note
    )
    image = next(one.image for one in source.examples if "rendered" in one.flags)
    assert image is not None
    assert image().size == (1024, 180)


def test_a_missing_picture_that_cannot_be_drawn_is_counted_and_named(mini_data: Path) -> None:
    (mini_data / "mm_safetybench/images/06-Fraud/SD_TYPO/0.jpg").unlink()
    said = r"the images of 1 of 26 items are missing, the first is .*06-Fraud/SD_TYPO/0\.jpg\. They are in"
    with pytest.raises(DataError, match=said):
        make("sd_typo").build_all_requests()


def test_typography_wraps_by_width_and_continues_with_a_space() -> None:
    from shiftdc_eval.tasks.fonts import load_font

    font = load_font(any_font(), 90)
    lines = wrap("one two three four five six seven eight", font)
    assert len(lines) > 1
    assert all(line.startswith(" ") for line in lines[1:])
    assert "".join(lines) == "one two three four five six seven eight"
    assert all(font.getlength(line) <= 1024 for line in lines)


def test_tiny_is_the_authors_list(mini_data: Path) -> None:
    task = make("text_only", subset="tiny")
    assert [one.id.rpartition("/")[2] for one in task.source.examples] == ["0"] * 13


def test_the_notes_of_a_tiny_task_count_the_images_of_the_tiny_task(
    mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIFTDC_FONT", str(any_font()))
    for path in (mini_data / "mm_safetybench" / "images").rglob("TYPO/*.jpg"):
        path.unlink()
    assert make("typo").source.notes[0].startswith("26 of 26 images rendered with")
    assert make("typo", subset="tiny").source.notes[0].startswith("13 of 13 images rendered with")
    (mini_data / "ids").write_text("mm_safetybench/06-Fraud/0")
    monkeypatch.setenv("SHIFTDC_CALIBRATION_IDS", str(mini_data / "ids"))
    assert make("typo", subset="tiny").source.notes[0].startswith("12 of 12 images rendered with")


def test_an_id_of_the_tiny_list_without_a_question_is_named(mini_data: Path) -> None:
    path = mini_data / "mm_safetybench/TinyVersion_ID_List.json"
    path.write_text(json.dumps([{"Scenario": "06-Fraud", "Sampled_ID_List": [2]}]))
    with pytest.raises(DataError, match="mm_safetybench/06-Fraud/2 of the tiny list is not among"):
        make("text_only", subset="tiny")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows["3"].pop("Question"), r"06-Fraud\.json, question 3: 'Question' must be"),
        (lambda rows: rows["0"].update({"Rephrased Question(SD)": " "}), "question 0: 'Rephrased Question"),
        (lambda rows: rows.update({"7": "text"}), "question 7: 'Rephrased Question"),
    ],
)
def test_a_malformed_question_names_file_and_id(
    mini_data: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = mini_data / "mm_safetybench/processed_questions/06-Fraud.json"
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError, match=message):
        make("sd")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"0": {}, "0": {}}', r"06-Fraud\.json: key '0' appears twice"),
        ("[]", r"06-Fraud\.json: expected a JSON dict, found a list"),
        ("{", r"06-Fraud\.json: not readable as JSON"),
        (None, r"06-Fraud\.json is missing"),
    ],
)
def test_a_broken_question_file_is_named(mini_data: Path, content: str | None, message: str) -> None:
    path = mini_data / "mm_safetybench/processed_questions/06-Fraud.json"
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        make("text_only")


def test_an_unknown_kind_is_refused(mini_data: Path) -> None:
    with pytest.raises(ConfigError, match="kind must be one of sd, typo, sd_typo, text_only"):
        MMSafetyBench({"task": "mm_safetybench_sd", "dataset_kwargs": {"kind": "video"}})


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub repository's files below `SHIFTDC_DATA`."""
    folder = tmp_path / "mm_safetybench"
    mini.write_mm_safetybench_hub(folder)
    monkeypatch.setenv("SHIFTDC_DATA", str(tmp_path))
    return folder


@pytest.mark.slow
def test_a_downloaded_hub_repository_gives_the_same_items_as_the_authors_files(
    hub_folder: Path, mini_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = make("sd_typo").source
    monkeypatch.setenv("SHIFTDC_DATA", str(hub_folder.parent))
    ours = make("sd_typo").source
    for one, other in zip(ours.examples, theirs.examples, strict=True):
        assert (one.id, one.question, one.prompt) == (other.id, other.question, other.prompt)
        assert one.image is not None
        assert one.image().size == (96, 64)
        assert one.request.startswith("List steps in detail")  # the hub's text-only wording
    assert ours.dataset == "local copy of PKU-Alignment/MM-SafetyBench"


@pytest.mark.slow
def test_the_hub_id_is_loaded_by_config_and_split_under_one_revision(
    hub_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def resolve(dataset: str, benchmark: str) -> str:
        asked.append(dataset)
        return "f" * 40

    monkeypatch.delenv("SHIFTDC_DATA")
    monkeypatch.setattr(hub, "resolve_revision", resolve)
    monkeypatch.setattr(hub, "DATASET", str(hub_folder))  # `datasets` reads its card as it reads the hub's
    source = make("text_only").source
    assert asked == [str(hub_folder)]
    assert source.revision == "f" * 40
    assert len(source.examples) == 26
    assert "Changed Question" in source.notes[0]


def test_offline_without_data_the_error_names_id_revision_and_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SHIFTDC_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", _no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError) as caught:
        make("sd")
    message = str(caught.value)
    assert "PKU-Alignment/MM-SafetyBench at revision main" in message
    assert "$SHIFTDC_DATA/mm_safetybench/" in message


def _no_network(*_: Any, **__: Any) -> None:
    raise OSError("no route to host")


def test_offline_the_cached_revision_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from shiftdc_eval.tasks.hub import resolve_revision

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", _no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    reference = tmp_path / "datasets--a--b" / "refs" / "main"
    reference.parent.mkdir(parents=True)
    reference.write_text("abc123\n")
    assert resolve_revision("a/b", "mm_safetybench") == "abc123"


def test_calibration_items_are_left_out_or_declared(
    mini_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = tmp_path / "ids.txt"
    listed.write_text("mm_safetybench/06-Fraud/0\nmm_safetybench_sd/07-Sex/3\n")
    monkeypatch.setenv("SHIFTDC_CALIBRATION_IDS", str(listed))
    task = make("sd")
    assert len(task.source.examples) == 24
    assert task.facts()["items"] == 1680 - 2
    assert task.source.notes[0].startswith("excluded: 2 calibration items")
    monkeypatch.setenv("SHIFTDC_CALIBRATION", "flag")
    flagged = make("sd")
    assert len(flagged.source.examples) == 26
    assert sum("calibration" in one.flags for one in flagged.source.examples) == 2
    assert flagged.source.notes[0].startswith("leakage: 2 of 26 items")


@pytest.mark.parametrize(
    ("content", "policy", "message"),
    [("", "exclude", "holds no ids"), ("[1]", "exclude", "list of texts"), ("a", "drop", "exclude or flag")],
)
def test_a_wrong_calibration_list_is_refused(
    mini_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, policy: str, message: str
) -> None:
    listed = tmp_path / "ids"
    listed.write_text(content)
    monkeypatch.setenv("SHIFTDC_CALIBRATION_IDS", str(listed))
    monkeypatch.setenv("SHIFTDC_CALIBRATION", policy)
    with pytest.raises(ConfigError, match=message):
        make("sd")


def test_means_over_scenarios_weigh_scenarios_alike(
    mini_data: Path, evaluate: Any, judged_by: Callable[..., None]
) -> None:
    # one more question in scenario 01: micro and unweighted means differ then
    path = mini_data / "mm_safetybench/processed_questions/01-Illegal_Activitiy.json"
    rows = json.loads(path.read_text())
    rows["9"] = mini.mm_safetybench_row("01-Illegal_Activitiy", "9")
    path.write_text(json.dumps(rows))
    judged_by(FakeJudge("keyword_fake"))
    # 27 items: the first three (scenario 01) comply, the last two (scenario 13) comply, the others refuse
    results, _ = evaluate("mm_safetybench_text_only", lambda _, i: "yes" if i < 3 or i > 24 else "no")
    row = results["results"]["mm_safetybench_text_only"]
    assert row["keyword_asr,none"] == pytest.approx(5 / 27)
    assert row["keyword_asr_clear,none"] == pytest.approx(3 / 17)
    assert row["keyword_asr_mean_13,none"] == pytest.approx(2 / 13)
    assert row["keyword_asr_mean_8,none"] == pytest.approx(1 / 8)
    assert row["refusal_rate_mean_8,none"] == pytest.approx(7 / 8)
    by_scenario = row["by_scenario,none"]["keyword_asr"]
    assert (by_scenario["13-Gov_Decision"]["mean"], by_scenario["13-Gov_Decision"]["scored"]) == (1.0, 2)
    assert by_scenario["all"]["mean"] == pytest.approx(5 / 27)


def test_rows_in_any_order_give_the_same_means(mini_data: Path, judged_by: Callable[..., None]) -> None:
    judged_by(FakeJudge("keyword_fake"))
    task = make("text_only")
    task.build_all_requests()
    rows = [{"item": one.id, "value": float(n % 3 == 0)} for n, one in enumerate(task.source.examples)]
    aggregate = task.aggregation()["keyword_asr_mean_13"]
    expected = aggregate(rows)
    for seed in range(5):
        shuffled = rows[:]
        random.Random(seed).shuffle(shuffled)
        assert aggregate(shuffled) == expected


def test_a_limited_run_has_no_mean_over_scenarios(
    mini_data: Path, evaluate: Any, judged_by: Callable[..., None]
) -> None:
    judged_by(FakeJudge("keyword_fake"))
    results, _ = evaluate("mm_safetybench_text_only", lambda *_: "no", limit=4)
    row = results["results"]["mm_safetybench_text_only"]
    assert row["refusal_rate,none"] == 1.0
    assert row["refusal_rate_mean_13,none"] == "N/A"


@pytest.mark.parametrize("kind", ["typo", "text_only"])
def test_the_authors_1680_questions_parse_and_pair(shared: Path, kind: str) -> None:
    examples = make(kind).source.examples
    assert len(examples) == len({one.id for one in examples}) == 1680
    for name, (size, _) in COUNTS.items():
        assert sum(one.scenario == name for one in examples) == size
    path = shared / "mm_safetybench/processed_questions/08-Political_Lobbying.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert max(map(int, rows)) == 180  # 153 questions: never by position
    found = {one.id: one for one in examples}
    for number, row in rows.items():
        example = found[f"mm_safetybench_{kind}/08-Political_Lobbying/{number}"]
        assert (example.prompt, example.request) == (row[FIELD[kind]], row["Question"])


def test_the_authors_tiny_list_has_168_ids(shared: Path) -> None:
    examples = make("text_only", subset="tiny").source.examples
    for name, (_, tiny) in COUNTS.items():
        assert sum(one.scenario == name for one in examples) == tiny
