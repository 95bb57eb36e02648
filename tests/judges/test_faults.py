"""A judge server that misbehaves never makes a verdict out of a failure."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest
from judge_server import JudgeServer

from shiftdc_eval.core.errors import JudgeError
from shiftdc_eval.judges import Item, Judge, get_judge

FAULTS = [
    "429_seconds",
    "429_date",
    "429_none",
    "429_long",
    "400",
    "408",
    "413",
    "422",
    "500",
    "502",
    "503",
    "504",
    "reset_before",
    "reset_during",
    "closed_early",
    "no_reply",
    "slow_drip",
    "html",
    "html_as_json",
    "truncated",
    "empty_body",
    "json_list",
    "error_in_200",
    "empty_choices",
    "null_content",
    "blank_content",
    "length",
    "content_filter",
    "refusal",
    "say I would rather not decide whether this is safe or unsafe.",
    "say Verdict: safe\nVerdict: unsafe",
]
Build = Callable[..., Judge]


def item(number: int, order: str = "") -> Item:
    response = f"Answer {number}." + (f" [[{order}]]" if order else "")
    return Item(f"i{number}", "a request", response)


def test_every_fault_is_one_unscored_item_and_the_others_are_judged(judge_at: Build) -> None:
    items = [item(0)]
    for number, fault in enumerate(FAULTS, start=1):
        items += [item(2 * number, fault), item(2 * number + 1)]
    judge = judge_at("llm_figstep", timeout=1.5, tries=2, patience=0.2, concurrency=8)
    verdicts = judge.judge(items)
    unscored = [one.id for one, verdict in zip(items, verdicts, strict=True) if not verdict.scored]
    assert unscored == [one.id for one in items if "[[" in (one.response or "")]
    assert len(unscored) == len(FAULTS) >= 18
    assert {verdict.value for verdict in verdicts} == {None, "safe"}
    assert all(verdict.reason for verdict in verdicts if not verdict.scored)


PASSING = [
    "429_seconds", "429_none", "408", "500", "502", "503", "504", "reset_before", "reset_during",
    "closed_early", "html", "truncated", "empty_choices", "null_content",
]  # fmt: skip


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_is_asked_again_and_judged(
    judge_at: Build, server: JudgeServer, fault: str
) -> None:
    [verdict] = judge_at("llm_figstep").judge([item(1, f"{fault} once")])
    assert verdict.value == "safe"
    assert len(server.seen) == 2


@pytest.mark.parametrize("fault", ["400", "413", "422", "length", "content_filter", "refusal"])
def test_a_fault_that_will_not_pass_is_not_asked_again(
    judge_at: Build, server: JudgeServer, fault: str
) -> None:
    [verdict] = judge_at("llm_figstep", structured="off").judge([item(1, fault)])
    assert not verdict.scored
    assert len(server.seen) == 1


@pytest.mark.parametrize(("fault", "least"), [("429_seconds", 0.3), ("429_date", 0.9)])
def test_retry_after_is_honoured_in_seconds_and_as_a_date(
    judge_at: Build, server: JudgeServer, fault: str, least: float
) -> None:
    [verdict] = judge_at("llm_figstep", patience=10).judge([item(1, f"{fault} once")])
    first, second = server.seen
    assert verdict.scored
    assert second.at - first.at >= least


def test_a_wait_beyond_the_judges_patience_is_not_waited(judge_at: Build, server: JudgeServer) -> None:
    start = time.monotonic()
    [verdict] = judge_at("llm_figstep").judge([item(1, "429_long")])
    assert "patience" in verdict.reason
    assert len(server.seen) == 1
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    ("order", "words"),
    [("401", "key was not accepted"), ("403", "may not use"), ("404", "no such model"), ("quota", "quota")],
)
def test_a_hopeless_endpoint_stops_the_run_after_one_request(
    judge_at: Build, server: JudgeServer, order: str, words: str
) -> None:
    with pytest.raises(JudgeError, match=words) as caught:
        judge_at("llm_figstep", concurrency=16).judge([item(number, order) for number in range(50)])
    assert len(server.seen) == 1
    assert "judge-1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_judged_before_the_endpoint_turned_hopeless_is_kept(
    judge_at: Build, server: JudgeServer
) -> None:
    good = [item(number) for number in range(20)]
    with pytest.raises(JudgeError):
        judge_at("llm_figstep", concurrency=1).judge([*good, item(20, "401"), item(21)])
    asked = len(server.seen)
    verdicts = judge_at("llm_figstep").judge(good)
    assert asked == 21
    assert len(server.seen) == asked
    assert all(verdict.scored for verdict in verdicts)


def test_no_server_at_all_is_an_error_and_not_a_thousand_waits() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        url = f"http://127.0.0.1:{port}/v1"
    judge = get_judge(f"llm_figstep:model=m;base_url={url};tries=2;backoff=0.01")
    with pytest.raises(JudgeError, match="no server answers"):
        judge.judge([item(number) for number in range(1000)])


def test_a_connection_that_is_never_accepted_times_out() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        url = f"http://127.0.0.1:{address[1]}/v1"
        judge = get_judge(f"llm_figstep:model=m;base_url={url};tries=2;backoff=0.01;timeout=0.3")
        start = time.monotonic()
        with pytest.raises(JudgeError, match="no server answers"):
            judge.judge([item(1)])
        assert time.monotonic() - start < 5
        for filler in fillers:
            filler.close()


def test_an_image_that_cannot_be_loaded_leaves_its_item_unscored(judge_at: Build) -> None:
    def broken() -> object:
        raise OSError("gone")

    items = [Item("a", "a request", "An answer.", image=broken), Item("b", "a request", "An answer.")]  # type: ignore[arg-type]
    verdicts = judge_at("llm_mossbench").judge(items)
    assert [verdict.value for verdict in verdicts] == [None, None]
    assert "OSError" in verdicts[0].reason
    assert "needs the image" in verdicts[1].reason
