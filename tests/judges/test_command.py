"""`shiftdc-eval judge`: stored answers are judged again from files, side by side, and resumed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer
from stored_run import row, samples, write_run

from shiftdc_eval.cli import main
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.records import SampleField
from shiftdc_eval.judges import get_judge
from shiftdc_eval.judges.rejudge import rejudge
from shiftdc_eval.judges.rubric import load_rubric
from shiftdc_eval.judges.samples_file import add_verdicts, read_samples
from shiftdc_eval.judges.spending import cost_of
from shiftdc_eval.judges.verdict import Verdict

ANSWERS: list[str | None] = [
    "Sure. 1. Fill a pot. 2. Stir.",
    "I\u2019m sorry, I can\u2019t help with that.",
    "danger: first, second, third",
    "",
    None,
    "line one\u2028line two \U0001f600 \u200b",
]


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "results", [row(n, answer) for n, answer in enumerate(ANSWERS)])


def values(folder: Path, judge: str) -> list[Any]:
    return [one["shiftdc"]["verdicts"][judge]["value"] for one in samples(folder)]


@pytest.mark.slow
def test_judges_stand_side_by_side_in_every_row(
    run_folder: Path, server: JudgeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from judge_models import save_classifier

    classifier = save_classifier(tmp_path / "classifier")
    server.reply = lambda seen: "Verdict: unsafe" if "danger" in seen.text else "Verdict: safe"
    specs = [
        "keyword_robust",
        f"llm_figstep:model=judge-1;base_url={server.url}",
        f"local_classifier:unsafe=harm;model={classifier};as=tiny",
    ]
    before = samples(run_folder)
    assert main(["judge", str(run_folder), *(part for spec in specs for part in ("--judge", spec))]) == 0
    assert values(run_folder, "keyword_robust") == ["complied", "refused", "complied", None, None, "complied"]
    assert values(run_folder, "llm_figstep") == ["safe", "safe", "unsafe", None, None, "safe"]
    assert values(run_folder, "tiny") == ["safe", "safe", "unsafe", None, None, "safe"]
    after = samples(run_folder)
    for one in after:
        SampleField.model_validate(one["shiftdc"])
        one["shiftdc"]["verdicts"] = {}
    assert after == before
    assert "6 judged now, 0 had its verdict; safe 3, unsafe 1, unscored 2" in capsys.readouterr().out


def test_judging_again_asks_nothing_and_changes_no_byte_but_for_the_unscored(
    run_folder: Path, server: JudgeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["judge", str(run_folder), "--judge", f"llm_figstep:model=judge-1;base_url={server.url}"]
    main(command)
    [path] = run_folder.glob("*_samples_*")
    first, asked = path.read_bytes(), len(server.seen)
    main(command)
    assert path.read_bytes() == first
    assert len(server.seen) == asked == 4
    assert "2 judged now, 4 had its verdict" in capsys.readouterr().out


def test_verdicts_of_other_judges_are_never_taken_out(run_folder: Path) -> None:
    for name in ("keyword_gcg", "keyword_xstest", "keyword_robust"):
        assert main(["judge", str(run_folder), "--judge", name]) == 0
    assert all(
        set(one["shiftdc"]["verdicts"]) == {"keyword_gcg", "keyword_xstest", "keyword_robust"}
        for one in samples(run_folder)
    )


def test_another_judge_may_not_take_over_a_name(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["judge", str(run_folder), "--judge", "keyword_gcg"])
    before = samples(run_folder)
    assert main(["judge", str(run_folder), "--judge", "keyword_xstest:as=keyword_gcg"]) == 2
    assert "as=" in capsys.readouterr().err
    assert samples(run_folder) == before


def test_an_unscored_verdict_of_another_judge_gives_way(
    tmp_path: Path, server: JudgeServer, capsys: pytest.CaptureFixture[str]
) -> None:

    rows = [row(n, answer) for n, answer in enumerate(["four", "five"])]
    stand_in = {"kind": "score", "value": None, "reason": "no grader", "judge": "0" * 64}
    for one in rows:
        one["shiftdc_item"]["reference"] = "four"
        one["shiftdc"]["verdicts"]["llm_mmvet"] = stand_in
    folder = write_run(tmp_path / "mmvet", rows)
    server.reply = lambda seen: "1.0" if "| four | four |" in seen.text else "0.0"
    spec = f"llm_mmvet:model=judge-1;base_url={server.url}"
    assert main(["judge", str(folder), "--judge", spec]) == 0
    assert values(folder, "llm_mmvet") == [1.0, 0.0]
    assert main(["judge", str(folder), "--judge", spec.replace("judge-1", "judge-2")]) == 2
    assert "as=" in capsys.readouterr().err
    assert values(folder, "llm_mmvet") == [1.0, 0.0]


@pytest.mark.parametrize(
    "verdicts", [{}, {"mme_official": {"kind": "score", "value": 1.0, "judge": "0" * 64}}]
)
def test_a_refusal_judge_leaves_utility_tasks_alone_and_says_so(
    run_folder: Path, capsys: pytest.CaptureFixture[str], verdicts: dict[str, Any]
) -> None:
    utility = row(1, "Yes")
    utility["shiftdc_item"]["reference"] = "yes"
    utility["shiftdc"]["verdicts"] = verdicts
    path = run_folder / "20260101_000000_samples_shiftdc_mme.jsonl"
    path.write_text(json.dumps(utility) + "\n")
    before = path.read_bytes()
    assert main(["judge", str(run_folder), "--judge", "keyword_robust"]) == 0
    assert path.read_bytes() == before
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if "skipped, a utility task" in line] == [
        line for line in out if "mme" in line
    ]
    assert any("figstep_tiny" in line and "6 judged" in line for line in out)


def test_answers_without_references_are_judged_whatever_scores_they_have(run_folder: Path) -> None:
    scored = [row(n, "Sure.") for n in range(2)]
    for one in scored:
        one["shiftdc"]["verdicts"] = {"rated": {"kind": "score", "value": 0.5, "judge": "0" * 64}}
    folder = write_run(run_folder.parent / "scored", scored)
    assert main(["judge", str(folder), "--judge", "keyword_robust"]) == 0
    assert values(folder, "keyword_robust") == ["complied"] * 2


def test_disagreements_are_listed(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["judge", str(run_folder), "--judge", "keyword_robust", "--judge", "keyword_gcg"]
    assert main(command) == 0
    # The curly apostrophe hides the refusal from the published list.
    line = "disagree on figstep/1_1: keyword_gcg complied, keyword_robust refused"
    out = capsys.readouterr().out
    assert line in out
    assert f"{next(run_folder.rglob('*_samples_*'))}:\n" not in out
    main([*command, "--disagreements", "0"])
    out = capsys.readouterr().out
    assert line not in out
    assert "and 1 more disagreements" in out


def test_disagreements_of_several_files_stand_below_their_file(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [file] = run_folder.rglob("*_samples_*")
    again = file.with_name(file.name.replace("2026", "2027", 1))
    assert again != file
    shutil.copy(file, again)
    assert main(["judge", str(run_folder), "--judge", "keyword_robust", "--judge", "keyword_gcg"]) == 0
    out = capsys.readouterr().out.splitlines()
    line = "disagree on figstep/1_1: keyword_gcg complied, keyword_robust refused"
    for one in (file, again):
        assert out[out.index(f"{one}:") + 1] == line


def test_a_verdict_in_a_row_keeps_raw_reply_model_rubric_and_what_it_cost(
    run_folder: Path,
    server: JudgeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("127.0.0.1: {judge-1: {input: 2.0, output: 10.0}}")
    monkeypatch.setenv("SHIFTDC_PRICES", str(prices))
    spec = f"llm_figstep:model=judge-1;base_url={server.url}"
    main(["judge", str(run_folder), "--judge", spec, "--judge", "keyword_robust"])
    verdicts = [SampleField(**one["shiftdc"]).verdicts for one in samples(run_folder)]
    first = verdicts[0]["llm_figstep"]
    assert (first.raw, first.model) == ("Verdict: safe", "judge-1-0613")
    assert (first.tokens_in, first.tokens_out) == (100, 7)
    assert first.price == pytest.approx((100 * 2 + 7 * 10) / 1e6)
    assert first.seconds is not None
    assert first.seconds > 0
    assert first.rubric == load_rubric("figstep").sha256
    empty = verdicts[3]["llm_figstep"]
    assert (empty.raw, empty.tokens_in, empty.price) == (None, 0, 0.0), "nobody was asked about it"
    by_rule = verdicts[0]["keyword_robust"]
    assert (by_rule.raw, by_rule.tokens_in, by_rule.price) == (None, 0, 0.0)
    assert by_rule.rubric == by_rule.judge
    assert "400+28 tokens, 0.0011 USD" in capsys.readouterr().out


def test_an_unknown_price_stays_unknown_and_is_never_nothing(
    run_folder: Path, server: JudgeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["judge", str(run_folder), "--judge", f"llm_figstep:model=judge-1;base_url={server.url}"])
    verdicts = [SampleField(**one["shiftdc"]).verdicts["llm_figstep"] for one in samples(run_folder)]
    assert [verdict.price for verdict in verdicts] == [None, None, None, 0.0, 0.0, None]
    assert cost_of(verdicts).price is None
    assert "400+28 tokens, price unknown" in capsys.readouterr().out


def test_repeats_of_an_item_are_told_apart(tmp_path: Path) -> None:
    rows = [row(1, "Sure."), row(1, "I'm sorry, no.")]
    rows[1]["shiftdc"]["repeat"] = 1
    folder = write_run(tmp_path / "repeats", rows)
    main(["judge", str(folder), "--judge", "keyword_robust"])
    assert values(folder, "keyword_robust") == ["complied", "refused"]


def test_two_runs_in_one_file_keep_their_own_verdicts_on_an_item_they_answered_differently(
    tmp_path: Path,
) -> None:
    folder = write_run(tmp_path / "results", [row(0, "I'm sorry, I can't help with that."), row(0, "Sure.")])
    assert main(["judge", str(folder), "--judge", "keyword_robust"]) == 0
    assert values(folder, "keyword_robust") == ["refused", "complied"]


def test_a_response_with_a_lone_surrogate_is_judged_and_kept(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "odd", [row(1, "plain")])
    [path] = folder.glob("*_samples_*")
    path.write_text(json.dumps(row(1, "Sorry, no \ud83d.")) + "\n")
    assert main(["judge", str(folder), "--judge", "keyword_robust"]) == 0
    assert values(folder, "keyword_robust") == ["refused"]
    assert samples(folder)[0]["shiftdc_item"]["response"] == "Sorry, no \ud83d."


def test_several_runs_are_judged_in_one_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_run(tmp_path / "one", [row(1, "Sure.")])
    two = write_run(tmp_path / "two", [row(1, "Sorry, no."), row(2, "Sure.")])
    assert main(["judge", str(one), str(two), "--judge", "keyword_robust"]) == 0
    assert values(one, "keyword_robust") == ["complied"]
    assert values(two, "keyword_robust") == ["refused", "complied"]
    assert capsys.readouterr().out.count(" judged now, ") == 2


def test_samples_of_other_tasks_are_left_alone_and_tasks_can_be_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "mixed", [row(1, "Sure.")])
    other = folder / "20260101_000000_samples_xstest_safe.jsonl"
    other.write_text(json.dumps(row(1, "Sure.")) + "\n")
    foreign = folder / "20260101_000000_samples_mme.jsonl"
    foreign.write_text('{"doc_id": 0, "resps": [["Yes"]]}\n')
    before = foreign.read_bytes(), other.read_bytes()
    assert main(["judge", str(folder), "--judge", "keyword_robust", "--task", "figstep_tiny"]) == 0
    assert (foreign.read_bytes(), other.read_bytes()) == before
    assert capsys.readouterr().out.count("judged") == 1
    assert main(["judge", str(folder), "--judge", "keyword_robust"]) == 0
    assert foreign.read_bytes() == before[0]
    assert other.read_bytes() != before[1]
    capsys.readouterr()
    assert main(["judge", str(folder), "--judge", "keyword_robust", "--task", "figstep"]) == 2
    assert "there are: figstep_tiny, mme, xstest_safe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda one: one.pop("shiftdc"), "no field `shiftdc`"),
        (lambda one: one.pop("shiftdc_item"), "no field `shiftdc_item`"),
        (lambda one: one["shiftdc_item"].update(response="edited"), "its hash differs"),
        (lambda one: one["shiftdc_item"].update(response=["Sure."]), "the response is no text"),
    ],
)
def test_a_row_that_is_not_ours_is_refused_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[dict[str, Any]], object], words: str
) -> None:
    rows = [row(1, "Sure."), row(2, "Sure.")]
    spoil(rows[1])
    folder = write_run(tmp_path / "spoiled", rows)
    assert main(["judge", str(folder), "--judge", "keyword_robust"]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert ".jsonl:2: " in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--judge", "keyword_gcg"], "nowhere: no such results folder"),
        (["/nowhere", "--judge", ""], "name a judge with --judge"),
        (["."], "--judge"),
        (["--judge", "keyword_gcg"], "name a results folder"),
        ([".", "--judge", "keyword_gcgg"], "nearest: keyword_gcg"),
        ([".", "--judge", "keyword_gcg", "--judge", "keyword_gcg"], "two judges"),
        (["calibrate", "--judge", "keyword_gcg"], "human labels"),
    ],
)
def test_a_wrong_command_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["judge", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error


def test_a_hopeless_endpoint_leaves_the_samples_as_they_were(
    run_folder: Path, server: JudgeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(1, "Sure. [[401]]"), row(2, "Sure.")]
    folder = write_run(run_folder.parent / "hopeless", rows)
    spec = f"llm_figstep:model=judge-1;base_url={server.url}"
    assert main(["judge", str(folder), "--judge", spec]) == 2
    assert "key was not accepted" in capsys.readouterr().err
    assert samples(folder) == rows


@pytest.mark.slow
def test_a_killed_command_resumes_where_it_was(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "killed", [row(n, f"Answer {n}.") for n in range(300)])
    with JudgeServer(latency=0.05) as server:
        spec = f"llm_figstep:model=judge-1;base_url={server.url};concurrency=2"
        command = [sys.executable, "-m", "shiftdc_eval.cli", "judge", str(folder), "--judge", spec]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ)
        while len(server.seen) < 20 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        asked = len(server.seen)
        assert 20 <= asked < 300
        server.latency = 0.0
        assert main(["judge", str(folder), "--judge", spec.replace("=2", "=16")]) == 0
        assert len(server.seen) - asked <= 300 - asked + 2
    assert values(folder, "llm_figstep") == ["safe"] * 300


def test_a_samples_file_is_written_whole_or_not_at_all(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = run_folder.glob("*_samples_*")
    before = path.read_bytes()

    def fail(source: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    assert main(["judge", str(run_folder), "--judge", "keyword_robust"]) == 2
    assert f"{path}: cannot be written: No space left on device; free space" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert [file.name for file in run_folder.iterdir()] == [path.name]


def test_what_is_read_back_is_what_the_task_stored(run_folder: Path) -> None:
    [path] = run_folder.glob("*_samples_*")
    answers = read_samples(path).answers
    assert [answer.item.response for answer in answers] == ANSWERS
    assert [answer.item.request for answer in answers] == [f"request {n}" for n in range(len(ANSWERS))]


def test_verdicts_that_are_written_at_once_all_stay(run_folder: Path) -> None:
    [path] = run_folder.glob("*_samples_*")
    places = [answer.place for answer in read_samples(path).answers]
    verdict = Verdict(kind="refusal", value="refused")

    def write(judge: str) -> None:
        for number in range(12):
            add_verdicts(path, f"{judge}{number}", "f" * 64, "", dict.fromkeys(places, verdict))

    with ThreadPoolExecutor(2) as both:
        list(both.map(write, ["a", "b"]))
    for answer in read_samples(path).answers:
        assert len(answer.field.verdicts) == 24
    assert [file.name for file in run_folder.iterdir()] == [path.name]


def test_a_scored_verdict_of_another_judge_that_came_meanwhile_stays(run_folder: Path) -> None:
    [path] = run_folder.glob("*_samples_*")
    places = [answer.place for answer in read_samples(path).answers]
    first, second = (Verdict(kind="refusal", value=value) for value in ("refused", "complied"))
    add_verdicts(path, "judge", "f" * 64, "", dict.fromkeys(places, first))
    add_verdicts(path, "judge", "f" * 64, "", dict.fromkeys(places, second))
    assert set(values(run_folder, "judge")) == {"refused"}
    with pytest.raises(ConfigError, match="as="):
        add_verdicts(path, "judge", "e" * 64, "", dict.fromkeys(places, second))


def test_a_torn_file_is_judged_as_far_as_it_goes_and_stays_torn(
    run_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [path] = run_folder.glob("*_samples_*")
    torn = path.read_bytes()[:-20]
    path.write_bytes(torn)
    assert main(["judge", str(run_folder), "--judge", "keyword_robust"]) == 0
    assert path.read_bytes().rpartition(b"\n")[2] == torn.rpartition(b"\n")[2]
    assert len(read_samples(path).answers) == len(ANSWERS) - 1
    assert all("keyword_robust" in answer.field.verdicts for answer in read_samples(path).answers)
    assert any("line 6 is cut off, the 5 before it are read" in said for said in caplog.messages)


def test_the_same_judge_twice_at_once_is_paid_once(run_folder: Path, server: JudgeServer) -> None:
    server.latency = 0.1
    judge = get_judge(f"llm_figstep:model=judge-1;base_url={server.url}")
    with ThreadPoolExecutor(2) as both:
        done = [list(found) for found in both.map(lambda _: list(rejudge([run_folder], [judge])), range(2))]
    assert len(server.seen) == 4
    assert sorted(outcomes[0].judged for outcomes in done) == [2, 6]
    assert values(run_folder, "llm_figstep").count("safe") == 4


@pytest.mark.parametrize(
    "hostile", ["\x1b]0;title\x07\x1b[31m", "\u202eevil", "nul\x00", "\ud800", "two\nlines", "\u2028"]
)
def test_ids_that_would_steer_the_terminal_are_printed_as_escapes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hostile: str
) -> None:
    rows = [row(1, "I'm sorry, I can't help with that. Sure, here it is: first, second.")]
    rows[0]["shiftdc"]["item"] = f"figstep/{hostile}"
    for name, value in (("a", "refused"), ("b", "complied")):
        rows[0]["shiftdc"]["verdicts"][name] = {"kind": "refusal", "value": value, "judge": "0" * 64}
    folder = write_run(tmp_path / "results", [])
    [path] = folder.iterdir()
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert main(["judge", str(folder), "--judge", "keyword_robust"]) == 0
    printed = capsys.readouterr().out
    [line] = [line for line in printed.split("\n") if "a refused, b complied" in line]
    assert line.startswith("disagree on figstep/")
    assert all(one == "\n" or one.isprintable() or one == "\ufffd" for one in printed)


def test_a_stored_answer_is_judged_without_its_reasoning_as_the_run_had_it(tmp_path: Path) -> None:
    raw = "<think>I'm sorry, I cannot help with that.</think>Sure, here it is."
    rows = [row(n, answer) for n, answer in enumerate([raw, "<think>Sure.", raw])]
    rows[2]["shiftdc"]["reasoning_tags"] = []  # `--reasoning_tags none`
    folder = write_run(tmp_path / "results", rows)
    assert main(["judge", str(folder), "--judge", "keyword_shiftdc"]) == 0
    assert values(folder, "keyword_shiftdc") == ["complied", None, "refused"]
    assert [one["shiftdc_item"]["response"] for one in samples(folder)] == [raw, "<think>Sure.", raw]


def test_a_misspelt_human_agreement_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "human-agrement", "labels.csv", "--judge", "keyword_robust"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "did you mean human-agreement?" in line
