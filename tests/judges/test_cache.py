"""The verdict cache: one damaged verdict costs one call, a cache of a newer version is refused."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from queue_fed import fed, judge_fed

from shiftdc_eval.core.errors import JudgeError, WriteError
from shiftdc_eval.core.paths import cache_dir
from shiftdc_eval.judges import Item
from shiftdc_eval.judges.cache import VerdictCache
from shiftdc_eval.judges.verdict import Verdict

REFUSED = Verdict(kind="refusal", value="refused")


def items(*texts: str) -> list[Item]:
    return [Item(str(number), "request", text) for number, text in enumerate(texts)]


def database() -> sqlite3.Connection:
    return sqlite3.connect(cache_dir() / "verdicts.sqlite3")


def change_first(value: object) -> None:
    with database() as db:
        db.execute("UPDATE verdicts SET verdict = ? WHERE key = (SELECT MIN(key) FROM verdicts)", (value,))
    db.close()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "{",
        "[]",
        7,
        b"\xff\xfe",
        "[" * 100_000,
        '{"value": "refused"}',
        '{"kind": "refusal", "value": "perhaps"}',
        '{"kind": "refusal", "value": null, "reason": "none"}',
        '{"kind": "harm", "value": "safe"}',
        '{"kind": "score", "value": NaN}',
        '{"kind": "refusal", "value": "refused", "seconds": "12"}',
        '{"kind": "refusal", "value": "refused", "mood": "good"}',
    ],
)
def test_a_damaged_verdict_is_asked_again_and_the_others_stay(
    value: object, caplog: pytest.LogCaptureFixture
) -> None:
    judge = judge_fed("refusal", *["Verdict: refused"] * 3)
    judge.judge(items("a", "b", "c"))
    change_first(value)
    fed(judge).answers.append("Verdict: complied")
    again = [verdict.value for verdict in judge.judge(items("a", "b", "c"))]
    assert sorted(map(str, again)) == ["complied", "refused", "refused"]
    [said] = caplog.messages
    assert "verdicts.sqlite3: the verdict under " in said
    assert "\n" not in said
    assert [verdict.value for verdict in judge.judge(items("a", "b", "c"))] == again, "it was kept anew"


def newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=2")


def other_table(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE verdicts (name TEXT)")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (newer, "newer version of shiftdc-eval .* update"),
        (other_table, "SHIFTDC_CACHE"),
        (lambda path: path.write_bytes(b"no database " * 999), "delete it"),
        (lambda path: path.mkdir(), "SHIFTDC_CACHE"),
    ],
)
def test_a_file_that_is_no_cache_of_ours_is_refused_in_one_line(
    make: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "verdicts.sqlite3"
    make(path)
    with (
        pytest.raises(JudgeError, match=rf"verdicts.sqlite3.*{words}") as caught,
        VerdictCache(path) as cache,
    ):
        cache.get("key", "refusal")
    assert "\n" not in str(caught.value)


def test_a_cache_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="SHIFTDC_CACHE"):
        VerdictCache(tmp_path / "file" / "verdicts.sqlite3")


def test_a_full_disk_ends_judging_in_one_line_that_names_the_file(tmp_path: Path) -> None:
    with VerdictCache(tmp_path / "cache") as cache:
        cache.put("a", "judge", REFUSED)
        (pages,) = cache._db.execute("PRAGMA page_count").fetchone()
        cache._db.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(JudgeError, match=r"cache.*database or disk is full.*free space"):
            cache.put("b", "judge", REFUSED.model_copy(update={"raw": "x" * 1_000_000}))
        assert cache.get("a", "refusal") == REFUSED


def test_a_cache_of_the_version_before_is_read() -> None:
    cache_dir().mkdir()
    with database() as db:
        db.execute(
            "CREATE TABLE verdicts (key TEXT PRIMARY KEY, judge TEXT, verdict TEXT, made TEXT) WITHOUT ROWID"
        )
        db.execute("INSERT INTO verdicts VALUES ('k', 'j', ?, '')", (REFUSED.model_dump_json(),))
    db.close()
    with VerdictCache() as cache:
        assert cache.get("k", "refusal") == REFUSED
