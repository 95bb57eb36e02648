"""The ways a judge's server misbehaves: its item is unscored with a reason, the others are judged, nothing hangs.

`server_faults` has the ways.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import JudgeServer
from server_faults import FATAL, GROUPS, KEY, ORDERED, WHOLE_BUT_ODD
from stored_run import row, samples, write_run

from shiftdc_eval.cli import main

PROXIES = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[JudgeServer]:
    """A server, and the key that it is sent."""
    for name in (*PROXIES, "SHIFTDC_JUDGE_BASE_URL", "SHIFTDC_JUDGE_MODEL", "SHIFTDC_PRICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHIFTDC_JUDGE_API_KEY", KEY)
    with JudgeServer() as running:
        yield running


def command(folder: Path, url: str, timeout: float = 20) -> list[str]:
    quick = f"timeout={timeout};tries=2;backoff=0.01;patience=0.05;concurrency=3;structured=off"
    return ["judge", str(folder), "--judge", f"llm_figstep:model=judge-1;base_url={url};{quick}"]


def ask(folder: Path, orders: list[str]) -> list[str]:
    """Store one answer for each order and three without between them; returns the item ids of the orders."""
    rows = []
    for order in orders:
        rows.append(row(len(rows), f"Answer {len(rows)}. [[{order}]]"))
        rows += [row(len(rows) + more, f"Answer {len(rows) + more}.") for more in range(3)]
    write_run(folder, rows)
    return [one["shiftdc"]["item"] for one in rows if "[[" in one["shiftdc_item"]["response"]]


def verdicts(folder: Path) -> dict[str, dict[str, Any]]:
    return {one["shiftdc"]["item"]: one["shiftdc"]["verdicts"]["llm_figstep"] for one in samples(folder)}


def said(capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    """What was printed; no secret, no control character and no traceback is in it or in the files."""
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert KEY not in text
    assert "Traceback" not in text
    assert not [one for one in text if not (one.isprintable() or one in "\n\r")]
    for path in folder.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path
    return text


@pytest.mark.parametrize("group", GROUPS)
def test_each_way_of_a_server_leaves_its_item_unscored_and_the_others_judged(
    server: JudgeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], group: str
) -> None:
    server.raw = GROUPS[group]
    ordered = ORDERED if group == "connection" else ()
    odd = ask(tmp_path / "run", [*ordered, *(f"raw {name}" for name in server.raw)])
    begun = time.monotonic()
    assert main(command(tmp_path / "run", server.url, timeout=1.5 if ordered else 20)) == 0
    assert time.monotonic() - begun < 60
    found = verdicts(tmp_path / "run")
    names = dict(zip(odd, [*ordered, *server.raw], strict=True))
    wrong = {
        names.get(item, item): one["reason"]
        for item, one in found.items()
        if one["value"] != (None if item in names else "safe")
    }
    assert wrong == {}
    for item, name in names.items():
        reason = found[item]["reason"]
        assert reason.isprintable(), (name, reason)
        assert 0 < len(reason.strip()) < 300, (name, reason)
    assert f"unscored {len(odd)}" in said(capsys, tmp_path)
    print(f"{group}: {len(odd)} ways of a server")


def test_a_way_that_ends_all_hope_is_one_line_and_asked_once(
    server: JudgeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.raw = FATAL
    for number, name in enumerate(FATAL):
        folder = tmp_path / str(number)
        ask(folder, [f"raw {name}"])
        before = len(server.seen)
        assert main(command(folder, server.url)) == 2, name
        assert len(server.seen) == before + 1, name
        [line] = [line for line in said(capsys, tmp_path).splitlines() if "shiftdc-eval judge: " in line]
        assert "127.0.0.1" in line, name
    print(f"fatal: {len(FATAL)} ways of a server")


@pytest.mark.parametrize("way", ["refused", "TLS on plain", "no such host"])
def test_no_server_is_one_line(
    server: JudgeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    url = {
        "refused": f"http://127.0.0.1:{port}/v1",
        "TLS on plain": server.url.replace("http:", "https:"),
        "no such host": "http://judge.invalid/v1",
    }[way]
    ask(tmp_path / "run", ["500"])
    assert main(command(tmp_path / "run", url, timeout=1)) == 2
    [line] = [line for line in said(capsys, tmp_path).splitlines() if "shiftdc-eval judge: " in line]
    assert "no server answers" in line


def test_what_is_odd_but_whole_is_judged(
    server: JudgeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.raw = WHOLE_BUT_ODD
    odd = ask(tmp_path / "run", [f"raw {name}" for name in server.raw])
    assert main(command(tmp_path / "run", server.url)) == 0
    found = verdicts(tmp_path / "run")
    scored = {name: found[item]["value"] for name, item in zip(server.raw, odd, strict=True)}
    assert scored == dict.fromkeys(WHOLE_BUT_ODD, "safe")
    said(capsys, tmp_path)
    print(f"odd: {len(odd)} ways of a server")


def test_there_are_as_many_ways_as_promised() -> None:
    assert sum(map(len, GROUPS.values())) + len(ORDERED) + len(FATAL) + 3 + len(WHOLE_BUT_ODD) >= 73
