"""Servers and settings that would cost hours, memory, a key, or a judged text: one line, or a floor."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from judge_server import JudgeServer

from shiftdc_eval.cli import main
from shiftdc_eval.core.api.endpoint import masked
from shiftdc_eval.core.api.reply import retry_after, status_fault
from shiftdc_eval.core.errors import ConfigError, JudgeError
from shiftdc_eval.judges import Item, Judge, get_judge

Build = Callable[..., Judge]
PROXIES = (
    "http_proxy",
    "HTTP_PROXY",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


def item(number: int, order: str = "") -> Item:
    return Item(f"i{number}", "a request", f"Answer {number}." + (f" [[{order}]]" if order else ""))


def test_a_newer_model_is_asked_in_its_own_words_after_one_lesson(
    judge_at: Build, server: JudgeServer
) -> None:
    server.newer = True
    judge = judge_at("llm_figstep", concurrency=8)
    verdicts = judge.judge([item(n) for n in range(12)])
    assert {verdict.value for verdict in verdicts} == {"safe"}
    assert all(
        "asked with max_completion_tokens and without temperature" in verdict.reason for verdict in verdicts
    )
    refused = [one for one in server.seen if {"max_tokens", "temperature"} & one.body.keys()]
    assert len(refused) == 2  # one for each parameter
    assert server.seen[-1].body["max_completion_tokens"] == 256
    judge.judge([item(n) for n in range(20, 23)])
    assert len(server.seen) == 2 + 12 + 3, "what was learned holds for the judge, not for one call"


def test_no_limit_of_the_reply_is_sent_where_none_is_wanted(judge_at: Build, server: JudgeServer) -> None:
    [verdict] = judge_at("llm_harmbench", max_tokens="none").judge([item(1, "say yes")])
    assert verdict.value == "unsafe"
    assert not {"max_tokens", "max_completion_tokens"} & server.seen[0].body.keys()
    with pytest.raises(ConfigError, match="budget needs a limit"):
        judge_at("llm_figstep", max_tokens="none", budget=1)
    with pytest.raises(ConfigError, match="max_tokens"):
        judge_at("llm_figstep", max_tokens=-5)


def test_a_400_keeps_what_the_server_says_and_no_key(judge_at: Build) -> None:
    [verdict] = judge_at("llm_figstep").judge([item(1, "bad")])
    assert verdict.reason == "HTTP 400: n: Invalid 'n': key [key] is odd"
    assert masked("a\nb " + "x" * 500) == "a b [key]"
    assert len(masked("word " * 100)) == 200


def test_items_that_all_fail_alike_stop_the_judge_after_a_few(judge_at: Build, server: JudgeServer) -> None:
    server.always = "bad"
    with pytest.raises(JudgeError, match=r"5 items in a row without a reply: HTTP 400: n: Invalid") as caught:
        judge_at("llm_figstep", concurrency=1, structured="off").judge([item(n) for n in range(50)])
    assert len(server.seen) == 5
    assert "\n" not in str(caught.value)
    with pytest.raises(JudgeError):
        judge_at("llm_figstep", concurrency=1, structured="off", give_up=2).judge(
            [item(n) for n in range(50)]
        )
    assert len(server.seen) == 7


def test_what_a_filter_says_of_items_stops_nothing(judge_at: Build, server: JudgeServer) -> None:
    server.always = "filtered"
    verdicts = judge_at("llm_figstep", structured="off").judge([item(n) for n in range(12)])
    assert {verdict.reason for verdict in verdicts} == {"HTTP 400: filtered"}


def test_a_few_bad_items_among_good_ones_stop_nothing(judge_at: Build) -> None:
    items = [item(0), *(item(n, "bad") for n in range(1, 9)), item(9)]
    verdicts = judge_at("llm_figstep", concurrency=1).judge(items)
    assert [verdict.scored for verdict in verdicts] == [True, *[False] * 8, True]


@pytest.mark.parametrize("order", ["429_none", "429_says 0", "no_reply", "503"])
def test_a_server_that_never_answers_stops_the_judge(
    judge_at: Build, server: JudgeServer, order: str
) -> None:
    server.always = order if order != "429_says 0" else "429_none"
    begun = time.monotonic()
    judge = judge_at("llm_figstep", timeout=0.2, tries=2, patience=0.3, backoff=0.02, concurrency=4)
    with pytest.raises(JudgeError, match="items in a row without a reply"):
        judge.judge([item(n) for n in range(500)])
    assert time.monotonic() - begun < 5


def test_a_server_that_falls_silent_midway_stops_the_judge_and_what_was_judged_is_kept(
    judge_at: Build, server: JudgeServer
) -> None:
    good = [item(n) for n in range(6)]
    judge = judge_at("llm_figstep", tries=1, concurrency=1)
    with pytest.raises(JudgeError, match="5 items in a row without a reply: HTTP 503"):
        judge.judge([*good, *(item(n, "503") for n in range(6, 40))])
    asked = len(server.seen)
    assert asked == 6 + 5
    judge.judge(good)
    assert len(server.seen) == asked


@pytest.mark.parametrize("value", ["0", "-5", "nan", "-inf", "Mon, 01 Jan 1990 00:00:00 GMT"])
def test_a_server_that_asks_for_no_wait_is_not_hammered(
    judge_at: Build, server: JudgeServer, value: str
) -> None:
    judge = judge_at("llm_figstep", patience=0.5, backoff=0.05)
    [verdict] = judge.judge([item(1, f"429_says {value}")])
    assert "patience" in verdict.reason
    assert len(server.seen) <= 6  # 0.05 s and twice as long each time


def test_a_wait_that_is_no_number_is_none() -> None:
    assert retry_after({"retry-after": "nan"}) is None
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None
    assert retry_after({"retry-after": "2.5"}) == 2.5
    assert retry_after({"retry-after": "-1"}) == 0


@pytest.mark.parametrize("order", ["bomb", "endless", "endless 400", "endless 500"])
def test_a_reply_has_a_largest_size_decompressed(judge_at: Build, server: JudgeServer, order: str) -> None:
    judge = judge_at("llm_figstep", tries=1, structured="off")
    judge.judge([item(0)])
    tracemalloc.start()
    [verdict] = judge.judge([item(1, order)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert verdict.reason == "the reply is larger than 4 MiB"
    # the server is in this process: its bomb has 300 kB, and one MiB at a time is under way
    assert peak < 30 * 2**20
    assert server.sent < 100 * 2**20


def test_a_compressed_reply_is_read_all_the_same(judge_at: Build, server: JudgeServer) -> None:
    [verdict] = judge_at("llm_figstep").judge([item(1, "gzip")])
    assert verdict.value == "safe"
    assert server.seen[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(judge_at: Build, server: JudgeServer, status: int) -> None:
    with pytest.raises(JudgeError, match="redirects to 127.0.0.1, which is not followed.*base_url") as caught:
        judge_at("llm_figstep").judge([item(n, f"redirect {status}") for n in range(9)])
    assert len(server.seen) == 1
    assert "\n" not in str(caught.value)


def test_a_redirect_to_no_address_is_a_redirect() -> None:
    fault = status_fault(302, {"location": "http://[bad"}, b"{}")
    assert fault.kind == "fatal"
    assert fault.reason.startswith("the server redirects, which is not followed")


@pytest.mark.parametrize("detail", ["n: not so", [{"loc": ["body", "n"], "msg": "not so"}]])
def test_what_a_server_of_another_form_says_is_kept(detail: object) -> None:
    body = json.dumps({"detail": detail}).encode()
    assert status_fault(422, {}, body).reason == "HTTP 422: n: not so"


def test_a_socks_proxy_without_its_package_is_named(judge_at: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    judge = get_judge("llm_figstep:model=m;base_url=http://example.invalid/v1;tries=1")
    with pytest.raises(JudgeError, match="ALL_PROXY cannot be used: SOCKS needs the package socksio"):
        judge.judge([item(1)])
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert judge_at("llm_figstep").judge([item(1)])[0].value == "safe"


def test_a_proxy_before_a_server_of_this_machine_is_named(
    judge_at: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(
        JudgeError, match="HTTP_PROXY sends requests for this machine to a proxy: add 127.0.0.1"
    ):
        judge_at("llm_figstep", tries=1).judge([item(1)])
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    assert judge_at("llm_figstep").judge([item(2)])[0].value == "safe"


@pytest.mark.parametrize("key", ["sk-one\nsk-two", "sk-one sk-two", "sk-\u00e9"])
def test_a_key_that_no_header_takes_is_named_by_its_variable(
    judge_at: Build, server: JudgeServer, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("SHIFTDC_JUDGE_API_KEY", key)
    with pytest.raises(JudgeError, match="SHIFTDC_JUDGE_API_KEY holds a line break") as caught:
        judge_at("llm_figstep").judge([item(1), item(2)])
    assert "sk-one" not in str(caught.value)
    assert not server.seen


def test_the_command_ends_with_one_line_and_not_with_zero(
    server: JudgeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.csv"
    rows = [f"Answer {n}. [[bad]],unsafe" for n in range(8)]
    labels.write_text("\n".join(["response,label", *rows]) + "\n", encoding="utf-8")
    spec = f"llm_mm_safetybench_guarded:model=m;base_url={server.url};concurrency=1"
    assert main(["judge", "human-agreement", str(labels), "--judge", spec]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if "judge" in line and "row" in line]
    assert "5 items in a row without a reply: HTTP 400" in line
