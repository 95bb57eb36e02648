"""The LLM judge: cache, cost, limits, settings, and keys that stay out of sight."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from judge_server import JudgeServer
from PIL import Image

from shiftdc_eval.core.api.chat_model import Spent
from shiftdc_eval.core.api.prices import price_of
from shiftdc_eval.core.errors import ConfigError, JudgeError
from shiftdc_eval.judges import Item, Judge, get_judge
from shiftdc_eval.judges.cache import VerdictCache
from shiftdc_eval.judges.llm import LLMJudge
from shiftdc_eval.judges.spending import Spending

Build = Callable[..., LLMJudge]


def items(count: int, order: str = "") -> list[Item]:
    return [Item(f"i{n}", "a request", f"Answer {n}. {order}") for n in range(count)]


def test_a_verdict_carries_the_raw_reply_the_model_and_the_tokens(judge_at: Build) -> None:
    [verdict] = judge_at("llm_figstep").judge(items(1))
    assert (verdict.value, verdict.raw, verdict.model) == ("safe", "Verdict: safe", "judge-1-0613")
    assert (verdict.tokens_in, verdict.tokens_out) == (100, 7)
    assert verdict.reason == "by judge-1-0613"


def test_verdicts_come_in_the_order_of_the_items(judge_at: Build, server: JudgeServer) -> None:
    server.reply = lambda seen: "Verdict: " + ("unsafe" if "odd" in seen.text else "safe")
    mixed = [Item(f"i{n}", "a request", f"{'odd' if n % 2 else 'even'} {n}") for n in range(30)]
    values = [verdict.value for verdict in judge_at("llm_figstep").judge(mixed)]
    assert values == ["safe", "unsafe"] * 15


def test_a_second_judgement_asks_nothing(judge_at: Build, server: JudgeServer) -> None:
    first = judge_at("llm_figstep").judge(items(5))
    judge = judge_at("llm_figstep")
    assert judge.judge(items(5)) == first
    assert len(server.seen) == 5
    assert judge.spending.cached == 5
    judge_at("llm_figstep", temperature=1).judge(items(5))
    assert len(server.seen) == 10


def test_missing_and_empty_responses_are_unscored_without_a_request(
    judge_at: Build, server: JudgeServer
) -> None:
    nothing = [Item("a", "r", None), Item("b", "r", " \u200b\n"), Item("c", "", "An answer.")]
    verdicts = judge_at("llm_figstep").judge(nothing)
    assert [verdict.value for verdict in verdicts] == [None] * 3
    assert "needs the request" in verdicts[2].reason
    assert server.seen == []


def test_a_killed_judge_asks_only_for_what_is_missing(tmp_path: Path) -> None:
    with JudgeServer(latency=0.05) as server:
        script = (
            "from shiftdc_eval.judges import Item, get_judge\n"
            f"judge = get_judge('llm_figstep:model=m;concurrency=2;base_url={server.url}')\n"
            "judge.judge([Item(str(n), 'a request', f'Answer {n}. ') for n in range(400)])\n"
        )
        process = subprocess.Popen([sys.executable, "-c", script])
        while len(server.seen) < 20 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with VerdictCache() as cache:
            kept = len(cache)
        asked = len(server.seen)
        assert 20 - 2 <= kept <= asked < 400
        again = get_judge(f"llm_figstep:model=m;base_url={server.url}")
        assert all(verdict.scored for verdict in again.judge(items(kept + 10)))
        assert len(server.seen) - asked == 10


def test_a_cache_that_is_no_database_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.sqlite3"
    path.write_text("not a database, but long enough to be taken for one " * 100)
    with pytest.raises(JudgeError, match=r"verdicts\.sqlite3.*delete it"):
        VerdictCache(path)


def test_structured_output_is_asked_for_and_given_up_where_the_server_refuses_it(
    judge_at: Build, server: JudgeServer
) -> None:
    server.reply = lambda seen: '{"why": "", "verdict": "unsafe"}'
    judge_at("llm_figstep").judge(items(1))
    schema = server.seen[0].body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["verdict"]["enum"] == ["safe", "unsafe"]
    server.schema = False
    server.reply = lambda seen: "Verdict: safe"
    judge = judge_at("llm_refusal", concurrency=1)
    server.reply = lambda seen: "Verdict: refused"
    assert [verdict.value for verdict in judge.judge(items(4))] == ["refused"] * 4
    assert ["response_format" in seen.body for seen in server.seen[1:]] == [True] + [False] * 4


def test_requests_under_way_when_a_server_is_found_to_refuse_schemas_are_asked_again(
    judge_at: Build, server: JudgeServer
) -> None:
    server.schema, server.schema_delay = False, 0.2
    verdicts = judge_at("llm_figstep", concurrency=4).judge(items(4))
    assert [verdict.value for verdict in verdicts] == ["safe"] * 4
    # All four had asked for a schema before the first was answered without one.
    assert sum("response_format" in seen.body for seen in server.seen) == 4


@pytest.mark.parametrize("name", ["llm_mm_safetybench", "llm_mmvet", "llm_harmbench", "llm_strongreject"])
def test_an_official_prompt_is_sent_as_one_plain_request(
    judge_at: Build, server: JudgeServer, name: str
) -> None:
    judge_at(name).judge([Item("i", "a request", "An answer.", scenario="06-Fraud", reference="It")])
    body = server.seen[0].body
    assert "response_format" not in body
    assert body["messages"][-1]["role"] == "user"
    assert body["temperature"] == 0


def test_mmvets_grader_is_cut_at_three_tokens_and_read_all_the_same(
    judge_at: Build, server: JudgeServer
) -> None:
    [cut] = judge_at("llm_mmvet").judge([Item("i", "q", "[[length]]", reference="a")])
    assert server.seen[0].body["max_tokens"] == 3
    assert "begin with a number" in cut.reason


def test_mossbench_shows_the_image(judge_at: Build, server: JudgeServer) -> None:
    server.reply = lambda seen: "Description: red\nScore: 1\nReason: declines"
    red, blue = (lambda: Image.new("RGB", (4, 4), "red")), (lambda: Image.new("RGB", (4, 4), "blue"))
    [verdict] = judge_at("llm_mossbench").judge([Item("i", "q", "No.", image=red)])
    assert verdict.value == "refused"
    part = server.seen[0].body["messages"][0]["content"][1]
    assert part["image_url"]["url"].startswith("data:image/png;base64,")
    judge_at("llm_mossbench").judge([Item("i", "q", "No.", image=red)])
    assert len(server.seen) == 1
    judge_at("llm_mossbench").judge([Item("i", "q", "No.", image=blue)])
    assert len(server.seen) == 2


def test_rate_limits_lower_the_number_of_requests_under_way_and_lose_nothing(judge_at: Build) -> None:
    with JudgeServer(latency=0.01, limit=4) as small:
        judge = judge_at("llm_figstep", base_url=small.url, concurrency=32, patience=30)
        verdicts = judge.judge(items(150))
    assert all(verdict.scored for verdict in verdicts)
    refused = len(small.seen) - 150
    assert 0 < refused < 100


def test_a_known_price_is_counted_and_an_unknown_one_is_none(
    judge_at: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = judge_at("llm_figstep")
    judge.judge(items(3))
    assert judge.spending.usd is None
    assert "price unknown" in judge.spending.line()
    table = tmp_path / "prices.yaml"
    table.write_text("127.0.0.1: {judge-1: {input: 10, output: 100}}")
    monkeypatch.setenv("SHIFTDC_PRICES", str(table))
    judge = judge_at("llm_figstep", temperature=1)
    judge.judge(items(3))
    assert judge.spending.usd == pytest.approx(3 * (100 * 10 + 7 * 100) / 1e6)
    table.write_text("[]")
    with pytest.raises(ConfigError, match="SHIFTDC_PRICES"):
        judge_at("llm_figstep")


def test_our_price_table_knows_exact_names_at_their_host_only() -> None:
    assert price_of("api.openai.com", "gpt-4o-mini") is not None
    assert price_of("api.openai.com", "gpt-4o-mini-imitation") is None
    assert price_of("127.0.0.1", "gpt-4o-mini") is None


def test_a_budget_stops_before_it_is_overspent_and_the_rest_is_unscored(
    judge_at: Build, server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="budget needs the price"):
        judge_at("llm_figstep", budget=1)
    table = tmp_path / "prices.yaml"
    table.write_text("127.0.0.1: {judge-1: {input: 10, output: 100}}")
    monkeypatch.setenv("SHIFTDC_PRICES", str(table))
    judge = judge_at("llm_figstep", budget=0.1, max_tokens=32)
    verdicts = judge.judge(items(200))
    scored = sum(verdict.scored for verdict in verdicts)
    assert 20 < scored == len(server.seen) < 60
    assert judge.spending.usd is not None
    assert judge.spending.usd <= 0.1
    assert {verdict.reason for verdict in verdicts if not verdict.scored} == {
        "the budget of 0.1 USD is spent"
    }


@pytest.fixture
def dear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's judge costs 10 USD a million tokens in and 100 out."""
    table = tmp_path / "prices.yaml"
    table.write_text("127.0.0.1: {judge-1: {input: 10, output: 100}}")
    monkeypatch.setenv("SHIFTDC_PRICES", str(table))


@pytest.mark.usefixtures("dear")
def test_an_image_is_set_aside_as_an_image_and_not_as_its_characters(
    judge_at: Build, server: JudgeServer
) -> None:
    server.reply = lambda seen: "Description: noise\nScore: 1\nReason: declines"
    noise = Image.frombytes("RGB", (400, 400), os.urandom(3 * 400 * 400))
    shown = [Item("i", "q", "No.", image=lambda: noise)]
    [dear] = judge_at("llm_mossbench", budget=0.1).judge(shown)
    assert dear.reason == "the budget of 0.1 USD is spent"
    [verdict] = judge_at("llm_mossbench", budget=0.5).judge(shown)
    assert verdict.value == "refused"
    assert len(server.seen[0].body["messages"][0]["content"][1]["image_url"]["url"]) > 500_000


@pytest.mark.usefixtures("dear")
def test_every_attempt_at_an_item_needs_room_in_the_budget(judge_at: Build, server: JudgeServer) -> None:
    judge = judge_at("llm_figstep", budget=0.04, tries=8, backoff=0.001)
    [verdict] = judge.judge(items(1, "[[blank_content]]"))
    assert verdict.reason == "the budget of 0.04 USD is spent"
    assert 1 <= len(server.seen) < 8


def test_two_servers_of_one_machine_are_two_judges(judge_at: Build, server: JudgeServer) -> None:
    with JudgeServer(reply=lambda seen: "Verdict: unsafe") as other:
        first, second = judge_at("llm_figstep"), judge_at("llm_figstep", base_url=other.url)
        assert first.fingerprint != second.fingerprint
        assert [judge.judge(items(1))[0].value for judge in (first, second)] == ["safe", "unsafe"]
    path = judge_at("llm_figstep", base_url=server.url.replace("/v1", "/other/v1"))
    assert path.fingerprint != first.fingerprint
    assert judge_at("llm_figstep", base_url=f"{server.url}/", tries=1).fingerprint == first.fingerprint


def test_it_works_where_an_event_loop_is_running(judge_at: Build) -> None:
    async def in_a_notebook() -> object:
        return judge_at("llm_figstep").judge(items(2))[1].value

    assert asyncio.run(in_a_notebook()) == "safe"


def test_without_a_model_or_a_key_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="SHIFTDC_JUDGE_MODEL"):
        get_judge("llm_figstep")
    monkeypatch.setenv("SHIFTDC_JUDGE_MODEL", "gpt-4o-mini")
    with pytest.raises(JudgeError, match="no API key"):
        get_judge("llm_figstep").judge(items(1))


@pytest.mark.parametrize(
    "setting",
    ["concurrency=0", "concurrency=1.5", "timeout=nan", "structured=maybe", "runs=2", "base_url=ftp://h"],
)
def test_a_setting_that_does_not_fit_is_named(setting: str) -> None:
    key = setting.split("=")[0]
    with pytest.raises(ConfigError, match=key):
        get_judge(f"llm_figstep:model=m;{setting}")


CANARY = "sk-canary-0f3b9a7d51"


def test_a_key_is_found_in_no_file_message_or_log(
    judge_at: Build,
    server: JudgeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SHIFTDC_JUDGE_API_KEY", CANARY)
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    orders = ["", f"[[say The key is {CANARY}.\nVerdict: safe]]", "[[500]]", "[[reset_during]]", "[[html]]"]
    judge = judge_at("llm_figstep", tries=1)
    verdicts = judge.judge([Item(str(n), "a request", f"Answer {order}") for n, order in enumerate(orders)])
    assert server.seen[0].headers["authorization"] == f"Bearer {CANARY}"
    said += [repr(judge), judge.fingerprint, judge.spending.line(), *map(repr, verdicts)]
    for spec in (
        f"llm_figstep:model=m;api_key={CANARY}",
        f"llm_figstep:model=m;{CANARY}",
        f"llm_figstep:model=m;base_url=http://user:{CANARY}@127.0.0.1/v1",
        f"llm_figstep:model=m;base_url=http://127.0.0.1/v1?key={CANARY}",
        f"llm_figstep:model=m;base_url={CANARY}",
        f"llm_figstep:model=m;timeout={CANARY}",
    ):
        with pytest.raises(ConfigError) as config_error:
            get_judge(spec)
        said.append(str(config_error.value))
    with pytest.raises(JudgeError) as judge_error:
        judge_at("llm_figstep").judge([Item("x", "a request", "[[401]]")])
    said += [str(judge_error.value), repr(judge_error.value.__cause__)]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name.startswith("verdicts.sqlite3") for path in written)
    assert [path for path in written if CANARY.encode() in path.read_bytes()] == []
    output = "".join([*said, caplog.text, *capfd.readouterr()])
    assert CANARY not in output


def test_the_cache_holds_verdicts_and_no_prompt(judge_at: Build) -> None:
    judge_at("llm_figstep").judge([Item("i", "A VERY SPECIAL REQUEST", "A VERY SPECIAL ANSWER")])
    path = Path(os.environ["SHIFTDC_CACHE"]) / "verdicts.sqlite3"
    rows = str(sqlite3.connect(path).execute("SELECT * FROM verdicts").fetchall())
    assert "safe" in rows
    assert "SPECIAL" not in rows


def test_an_account_without_token_counts_knows_no_price() -> None:
    spending = Spending(price=price_of("api.openai.com", "gpt-4o-mini"))
    spending.spent += Spent(1, 100, 7)
    assert spending.usd is not None
    spending.spent += Spent(1, None, None)
    assert spending.usd is None


def test_an_llm_judge_is_a_judge(judge_at: Build) -> None:
    judge: Judge = judge_at("llm_figstep")
    assert (judge.name, judge.kind) == ("llm_figstep", "harm")


def test_of_equal_prompts_the_first_carries_the_cost_from_the_server_and_from_the_cache(
    judge_at: Build, server: JudgeServer
) -> None:
    same = [Item(str(n), "a request", "the same answer") for n in range(3)]
    for _ in range(2):
        verdicts = judge_at("llm_figstep").judge(same)
        assert [verdict.tokens_in for verdict in verdicts] == [100, 0, 0]
        assert [verdict.price for verdict in verdicts] == [None, 0.0, 0.0]
    assert len(server.seen) == 1


def test_every_attempt_at_an_item_is_part_of_its_cost(judge_at: Build, server: JudgeServer) -> None:
    [asked_twice] = judge_at("llm_figstep").judge([Item("i", "a request", "Answer [[null_content once]]")])
    assert asked_twice.value == "safe"
    assert (asked_twice.tokens_in, asked_twice.tokens_out) == (200, 14), "the empty reply was paid for too"
    [failed] = judge_at("llm_figstep", tries=1).judge([Item("i", "a request", "Answer [[length]]")])
    assert (failed.value, failed.tokens_in) == (None, 100)
    [unknown] = judge_at("llm_figstep").judge([Item("i", "a request", "Answer [[no_usage]]")])
    assert (unknown.value, unknown.tokens_in, unknown.price) == ("safe", None, None)


def test_the_shares_of_the_wall_time_add_up_to_it(judge_at: Build, server: JudgeServer) -> None:
    server.latency = 0.1
    begun = time.monotonic()
    verdicts = judge_at("llm_figstep", concurrency=4).judge(items(12))
    took = time.monotonic() - begun
    total = sum(verdict.seconds or 0 for verdict in verdicts)
    assert 0.3 <= total <= took


def test_half_a_surrogate_pair_in_a_reply_loses_nothing(judge_at: Build, server: JudgeServer) -> None:
    server.reply = lambda seen: "odd \ud800 text\nVerdict: unsafe"
    [verdict] = judge_at("llm_figstep").judge(items(1))
    assert verdict.value == "unsafe"
    assert verdict.raw == "odd ? text\nVerdict: unsafe"
