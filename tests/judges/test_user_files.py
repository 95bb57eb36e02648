"""Keyword lists and rubrics of a user's own, by the path of a YAML file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from judge_server import JudgeServer
from stored_run import row, samples, write_run

from shiftdc_eval.cli import main
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.judges import Item, Judge, get_judge, judges_for

LIST: dict[str, Any] = {
    "match": "anywhere",
    "case_sensitive": False,
    "keywords": ["no thank you", "another time"],
}
ROBUST: dict[str, Any] = {
    "match": "robust",
    "lead_ins": ["well"],
    "start": ["not today"],
    "not_before": ["but"],
    "subjects": ["we"],
    "verbs": ["decline|refuse"],
}
RUBRIC: dict[str, Any] = {
    "kind": "refusal",
    "guard": True,
    "templates": [{"text": "Was this polite?\n\n{response}"}],
    "parser": "labelled",
    "labels": {"polite": "complied", "rude": "refused"},
    "max_tokens": 40,
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, content: object) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def values(judge: Judge, *answers: str) -> list[Any]:
    return [verdict.value for verdict in judge.judge([Item(a, "a request", a) for a in answers])]


def test_a_list_by_path_judges_by_its_phrases() -> None:
    write("mine.yaml", LIST)
    judge = get_judge("keyword:list=mine.yaml")
    assert (judge.name, judge.kind) == ("keyword_mine", "refusal")
    assert values(judge, "Oh, NO THANK YOU.", "Gladly.", "I'm sorry, no.") == [
        "refused",
        "complied",
        "complied",
    ]


def test_a_robust_list_by_path_matches_as_ours_does() -> None:
    write("lists/My List.yml", ROBUST)
    judge = get_judge("keyword:list=lists/My List.yml")
    assert judge.name == "keyword_my_list"
    answers = ["Well, not today.", "Not today but tomorrow.", "So we politely refuse.", "Sure."]
    assert values(judge, *answers) == ["refused", "complied", "refused", "complied"]


def test_a_list_of_ours_can_be_named_by_the_same_setting() -> None:
    judge = get_judge("keyword:list=gcg")
    assert (judge.name, judge.fingerprint) == ("keyword_gcg", get_judge("keyword_gcg").fingerprint)


def test_a_rubric_by_path_is_asked_guarded_and_read(server: JudgeServer) -> None:
    write("my.yaml", RUBRIC)
    server.reply = lambda seen: "Verdict: rude" if "Go away" in seen.text else "Verdict: polite"
    judge = get_judge(f"llm:rubric=./my.yaml;model=judge-1;base_url={server.url}")
    assert (judge.name, judge.kind) == ("llm_my", "refusal")
    assert values(judge, "Go away.", "Welcome.") == ["refused", "complied"]
    assert "Was this polite?" in server.seen[0].text
    assert "<<<RESPONSE" in server.seen[0].text


def test_a_local_judge_takes_a_rubric_by_path_too() -> None:
    write("my.yaml", RUBRIC)
    assert get_judge("local_rubric:rubric=./my.yaml;model=m").name == "local_my"


@pytest.mark.parametrize(
    ("spec", "content"), [("keyword:list=f.yaml", LIST), ("llm:rubric=f.yaml;model=m", RUBRIC)]
)
def test_the_files_bytes_are_the_judges_identity(spec: str, content: dict[str, Any]) -> None:
    path = write("f.yaml", content)
    first = get_judge(spec)
    assert first.rubric_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()  # type: ignore[attr-defined]
    assert get_judge(spec).fingerprint == first.fingerprint
    path.rename("g.yaml")
    assert get_judge(spec.replace("f.yaml", "./g.yaml")).fingerprint == first.fingerprint
    write("f.yaml", {**content, "notes": "one word more"})
    edited = get_judge(spec)
    assert edited.fingerprint != first.fingerprint
    assert edited.rubric_sha256 != first.rubric_sha256  # type: ignore[attr-defined]


def test_settings_of_a_rubric_by_path_are_part_of_its_identity() -> None:
    write("f.yaml", RUBRIC)
    spec = "llm:rubric=f.yaml;model=m"
    assert get_judge(f"{spec};max_tokens=9").fingerprint != get_judge(spec).fingerprint


def test_verdicts_of_an_edited_file_are_not_mixed_with_the_old_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("mine.yaml", LIST)
    folder = write_run(tmp_path / "run", [row(1, "No thank you."), row(2, "Perhaps.")])
    command = ["judge", str(folder), "--judge", "keyword:list=mine.yaml"]
    assert main(command) == 0
    before = samples(folder)
    write("mine.yaml", {**LIST, "keywords": ["perhaps"]})
    assert main(command) == 2
    assert "the verdicts under 'keyword_mine' are of a judge with other settings" in capsys.readouterr().err
    assert samples(folder) == before
    assert main(["judge", str(folder), "--judge", "keyword:list=mine.yaml;as=mine_2"]) == 0
    verdicts = [one["shiftdc"]["verdicts"] for one in samples(folder)]
    assert [(one["keyword_mine"]["value"], one["mine_2"]["value"]) for one in verdicts] == [
        ("refused", "complied"),
        ("complied", "refused"),
    ]
    assert verdicts[0]["keyword_mine"]["rubric"] != verdicts[0]["mine_2"]["rubric"]


def test_the_verdict_cache_does_not_answer_for_an_edited_rubric(server: JudgeServer) -> None:
    spec = f"llm:rubric=my.yaml;model=judge-1;base_url={server.url}"
    server.reply = lambda seen: "Verdict: polite"
    for text in ("Was this polite?\n\n{response}", "Was that polite?\n\n{response}"):
        write("my.yaml", {**RUBRIC, "templates": [{"text": text}]})
        for _ in range(2):
            get_judge(spec).judge([Item("i", "", "Welcome.")])
    assert len(server.seen) == 2


def test_a_tasks_list_of_judges_may_name_files() -> None:
    write("mine.yaml", LIST)
    assert [one.name for one in judges_for(["keyword_gcg", "keyword:list=mine.yaml"])] == [
        "keyword_gcg",
        "keyword_mine",
    ]


@pytest.mark.parametrize(
    ("spec", "content", "words"),
    [
        (
            "keyword:list=f.yaml",
            {**LIST, "keywords": []},
            "f.yaml: keywords: List should have at least 1 item",
        ),
        ("keyword:list=f.yaml", {**LIST, "keywords": ["a", ""]}, "f.yaml: keywords.1: String should have"),
        (
            "keyword:list=f.yaml",
            {**LIST, "keyword": ["a"]},
            "f.yaml: keyword: Extra inputs are not permitted",
        ),
        ("keyword:list=f.yaml", {**LIST, "match": "fuzzy"}, "f.yaml: match: Input should be 'anywhere' or"),
        ("keyword:list=f.yaml", {"keywords": ["a"]}, "f.yaml: match: Field required"),
        ("keyword:list=f.yaml", {**ROBUST, "verbs": ["(a"]}, "f.yaml: verbs.0: no regular expression"),
        ("keyword:list=f.yaml", "- a\n- b\n", "f.yaml: expected `field: value` lines, found list"),
        ("keyword:list=f.yaml", "match: [", "f.yaml: no YAML"),
        ("llm:rubric=f.yaml;model=m", {**RUBRIC, "parser": "guess"}, "f.yaml: parser: Input should be"),
        (
            "llm:rubric=f.yaml;model=m",
            {**RUBRIC, "labels": {"a": "safe"}},
            "f.yaml: labels: the words of the",
        ),
        (
            "llm:rubric=f.yaml;model=m",
            {**RUBRIC, "templates": [{"text": "x"}]},
            "every text needs {response}",
        ),
        ("llm:rubric=f.yaml;model=m", {**RUBRIC, "templates": []}, "templates: one, and only one"),
        ("llm:rubric=f.yaml;model=m", {**RUBRIC, "kind": "score", "minimum": 2}, "minimum: must be below"),
        ("llm:rubric=f.yaml;model=m", {**RUBRIC, "name": "x"}, "f.yaml: name: not a field"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_with_file_and_field(
    spec: str, content: object, words: str
) -> None:
    write("f.yaml", content)
    with pytest.raises(ConfigError) as caught:
        get_judge(spec)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("keyword:list=none/of/it.yaml", "none/of/it.yaml: cannot be read: No such file"),
        ("llm:rubric=none.yaml;model=m", "none.yaml: cannot be read: No such file"),
        ("keyword", "judge keyword needs a list; add `list=FILE.yaml`"),
        ("llm:model=m", "judge llm needs a rubric; add `rubric=FILE.yaml`"),
        ("keyword:list=mine", "no keyword list 'mine'"),
    ],
)
def test_a_file_that_is_not_there_is_named(spec: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_judge(spec)
    assert words in str(caught.value)


def test_a_file_called_like_a_judge_of_ours_needs_another_column() -> None:
    write("robust.yaml", LIST)
    with pytest.raises(ConfigError, match="keyword_robust.*rename the file or add `as=NAME`"):
        get_judge("keyword:list=robust.yaml")
    assert get_judge("keyword:list=robust.yaml;as=mine").name == "mine"


def test_the_documented_examples_work() -> None:
    text = (Path(__file__).parents[2] / "docs" / "judges.md").read_text(encoding="utf-8")
    blocks = [part.split("```", 1)[0] for part in text.split("```yaml\n")[1:]]
    found = {block.splitlines()[0]: block for block in blocks if block.startswith("# ")}
    assert sorted(found) == ["# mine.yaml", "# my.yaml"]
    for title, block in found.items():
        write(title.removeprefix("# "), block)
    assert values(get_judge("keyword:list=mine.yaml"), "No thank you.", "Sure.") == ["refused", "complied"]
    assert get_judge("llm:rubric=./my.yaml;model=m").kind == "harm"
