"""The ways a server misbehaves that answers for us: nothing is lost, nothing is made up, no key is shown."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer, completion
from served_model import Given, ask_server, run_records
from server_faults import FATAL, GROUPS, KEY, ORDERED, WHOLE_BUT_ODD, http

from shiftdc_eval.core.errors import ModelError

READ_AS_ANSWERS = {
    *("refusal", "cut at the limit", "no verdict", "both verdicts", "a number", "another scale"),
    *("a negation", "the key alone", "zero width", "steering", "half a pair"),
}
"""What no judge can read, and what a user would see as an answer: it is for the judges of the answer."""
FILTERED = {"filtered", "400 filtered"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    for scheme in ("http", "https", "all"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)
    monkeypatch.setenv("SHIFTDC_SERVER_API_KEY", KEY)
    with JudgeServer(reply=lambda seen: f"Echo: {seen.text}") as running:
        yield running


Ask = Callable[..., list[Given]]


@pytest.fixture
def ask(server: JudgeServer, tmp_path: Path) -> Ask:
    """Puts prompts to the model behind the server; says what became of each."""
    return lambda prompts, folder="journal", **more: ask_server(server, prompts, tmp_path / folder, **more)


def prompts_for(orders: Sequence[str]) -> tuple[list[str], list[int]]:
    """A prompt for each order and three without between them; and the places of the orders."""
    prompts, places = [], []
    for order in orders:
        places.append(len(prompts))
        prompts.append(f"Request {len(prompts)}. [[{order}]]")
        prompts += [f"Request {len(prompts) + more}." for more in range(3)]
    return prompts, places


def journal_of(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("journal-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()[1:]]


def assert_no_key(folder: Path, *texts: str) -> None:
    for path in folder.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path
    for text in texts:
        assert KEY not in text


@pytest.mark.parametrize("group", GROUPS)
def test_a_failed_item_is_unscored_named_and_asked_again(
    server: JudgeServer, ask: Ask, tmp_path: Path, caplog: pytest.LogCaptureFixture, group: str
) -> None:
    server.raw = dict(GROUPS[group])
    ordered = ORDERED if group == "connection" else ()
    names = [*ordered, *server.raw]
    prompts, places = prompts_for([*ordered, *(f"raw {name}" for name in server.raw)])
    begun = time.monotonic()
    with caplog.at_level(logging.WARNING):
        found = ask(prompts, timeout=1.5 if ordered else 20)
    assert time.monotonic() - begun < 60
    name_at = dict(zip(places, names, strict=True))
    failed = {name_at.get(at, at) for at, one in enumerate(found) if one.why}
    assert failed == set(names) - READ_AS_ANSWERS
    for at, one in enumerate(found):
        if at not in name_at:
            assert one.text == f"Echo: {prompts[at]}"
        elif one.why:
            assert one.text == ""
            assert one.why.isprintable(), name_at[at]
            assert len(one.why) < 300, name_at[at]
    kept = {line["doc_id"] for line in journal_of(tmp_path / "journal")}
    again = failed - FILTERED
    assert kept == {at for at in range(len(prompts)) if name_at.get(at) not in again}
    if again:
        (line,) = [one.getMessage() for one in caplog.records if "asked again" in one.getMessage()]
        assert f"{len(again)} of {len(prompts)} requests" in line
        first = min(at for at, name in name_at.items() if name in again)
        assert f"given {first}" in line

    server.raw = dict.fromkeys(server.raw, http(200, completion("Now I can.")))
    before = len(server.seen)
    if not ordered:
        found = ask(prompts)
        assert {at for at, one in enumerate(found) if one.why} == {
            at for at, name in name_at.items() if name in FILTERED & failed
        }
        assert len(server.seen) - before == len(again)
        for at, name in name_at.items():
            if name in again:
                assert found[at].text == "Now I can."
    assert_no_key(tmp_path, caplog.text)


def test_a_filter_of_the_provider_is_an_outcome_of_its_own(
    server: JudgeServer, ask: Ask, tmp_path: Path
) -> None:
    words = {
        "azure": {"error": {"code": "content_filter", "message": "triggering Azure OpenAI's content management policy"}},
        "dashscope": {"error": {"code": "data_inspection_failed", "message": "Input data may contain inappropriate"}},
        "flagged": {"error": {"code": 403, "message": "Your chosen model requires moderation and your input was flagged"}},
        "policy": {"error": {"code": "content_policy_violation", "message": "rejected"}},
    }  # fmt: skip
    server.raw = {name: http(403 if name == "flagged" else 400, body) for name, body in words.items()}
    prompts, places = prompts_for([*(f"raw {name}" for name in words), "content_filter"])
    found = ask(prompts)
    reasons = [found[at].why for at in places]
    status = ["HTTP 400", "HTTP 400", "HTTP 403", "HTTP 400", "the server's content filter cut the reply"]
    assert reasons == [f"blocked by the provider's content filter ({one})" for one in status]
    assert run_records(tmp_path / "journal")[0].notes == [
        f"no answer (provider's content filter): {len(reasons)} of {len(prompts)} answers"
    ]
    before = len(server.seen)
    assert [ask(prompts)[at].why for at in places] == reasons
    assert len(server.seen) == before, "an outcome is kept"


def test_what_ends_all_hope_is_one_line_asked_once_and_loses_nothing(
    server: JudgeServer, ask: Ask, tmp_path: Path
) -> None:
    server.raw = dict(FATAL)
    for number, name in enumerate(FATAL):
        before = len(server.seen)
        with pytest.raises(ModelError) as raised:
            ask([f"[[raw {name}]]", *("later" for _ in range(8))], folder=str(number))
        assert len(server.seen) == before + 1, name
        assert "\n" not in str(raised.value)
        assert "127.0.0.1" in str(raised.value)
        assert_no_key(tmp_path, str(raised.value))
    prompts = [*(f"Request {at}." for at in range(8)), "[[401]]", *(f"Request {at}." for at in range(9, 30))]
    with pytest.raises(ModelError, match="API key was not accepted"):
        ask(prompts, folder="midway")
    answered = len(journal_of(tmp_path / "midway"))
    assert answered >= 8
    before = len(server.seen)
    with pytest.raises(ModelError, match="API key was not accepted"):
        ask(prompts, folder="midway")
    assert len(server.seen) - before <= len(prompts) - answered


def test_a_server_that_answers_nothing_more_is_given_up(server: JudgeServer, ask: Ask) -> None:
    begun = time.monotonic()
    with pytest.raises(
        ModelError, match=r"\d+ items in a row without a reply: HTTP 503.*answered so far is kept"
    ):
        ask(["first", *(f"Request {at}. [[503]]" for at in range(200))], patience=5)
    assert len(server.seen) < 60
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("way", ["refused", "TLS on plain", "no such host"])
def test_no_server_is_one_line(server: JudgeServer, ask: Ask, way: str) -> None:
    url = {
        "refused": "http://127.0.0.1:9/v1",
        "TLS on plain": server.url.replace("http:", "https:"),
        "no such host": "http://server.invalid/v1",
    }[way]
    with pytest.raises(ModelError, match="no server answers at .*correct the server's base_url"):
        ask(["a", "b"], base_url=url, timeout=2)


def test_what_is_odd_but_whole_is_an_answer(server: JudgeServer, ask: Ask, tmp_path: Path) -> None:
    server.raw = dict(WHOLE_BUT_ODD)
    prompts, places = prompts_for([f"raw {name}" for name in server.raw])
    found = ask(prompts)
    assert {found[at].text for at in places} == {"Verdict: safe"}
    assert_no_key(tmp_path)


def test_a_run_that_ended_asks_only_for_what_is_missing(server: JudgeServer, ask: Ask) -> None:
    """What was answered is on disk before the next answer is waited for."""
    prompts = [f"Request {at}." for at in range(12)]
    with pytest.raises(ModelError):
        ask([*prompts[:9], *("[[401]]" for _ in range(3))], concurrency=1)
    before = len(server.seen)
    ask(prompts, concurrency=1)
    assert len(server.seen) - before == 3
