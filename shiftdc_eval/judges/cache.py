"""Verdicts already given, by content: what makes a judge's work survive a kill.

A key is the hash of the judge's fingerprint and of the exact prompt, so a changed rubric, model or
response is judged anew. Only scored verdicts are kept: a failure is asked again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType

from shiftdc_eval.core.errors import JudgeError
from shiftdc_eval.core.paths import cache_dir
from shiftdc_eval.judges.verdict import OnVerdict, Verdict

_SCHEMA = """
CREATE TABLE IF NOT EXISTS verdicts (
    key TEXT PRIMARY KEY,
    judge TEXT NOT NULL,
    verdict TEXT NOT NULL,
    made TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
) WITHOUT ROWID
"""


class VerdictCache:
    """A SQLite file; every verdict is committed when it is given. Several processes may share it.

    Raises:
        JudgeError: the file cannot be used as a cache.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_dir() / "verdicts.sqlite3"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise JudgeError(
                f"cannot use {self.path} as the cache of verdicts ({error}); "
                "delete it, or name another folder with SHIFTDC_CACHE"
            ) from error

    def get(self, key: str) -> Verdict | None:
        """The verdict kept under a key."""
        row = self._db.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
        return Verdict.model_validate_json(row[0]) if row else None

    def put(self, key: str, judge: str, verdict: Verdict) -> None:
        """Keep a scored verdict; an unscored one is not kept."""
        if verdict.scored:
            self._db.execute(
                "INSERT OR REPLACE INTO verdicts (key, judge, verdict) VALUES (?, ?, ?)",
                (key, judge, verdict.model_dump_json()),
            )

    def __len__(self) -> int:
        with closing(self._db.execute("SELECT COUNT(*) FROM verdicts")) as cursor:
            return int(cursor.fetchone()[0])

    def __enter__(self) -> VerdictCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()


def resumed(
    judge: str,
    model: str,
    obstacles: Sequence[Verdict | None],
    keys: Sequence[str],
    rest: Callable[[list[int]], Iterator[Verdict]],
    on_verdict: OnVerdict | None,
) -> list[Verdict]:
    """Verdicts from the cache, and of what it lacks from the judge, kept one by one.

    Args:
        obstacles: the unscored verdict of each item that cannot be judged, else None.
        keys: of each item.
        rest: places still to be judged -> their verdicts, in order; not called where there is none.
    """
    with VerdictCache() as cache:
        verdicts = [obstacle or cache.get(key) for obstacle, key in zip(obstacles, keys, strict=True)]
        todo = [place for place, verdict in enumerate(verdicts) if verdict is None]
        if on_verdict is not None and len(todo) < len(verdicts):
            on_verdict(len(verdicts) - len(todo), "from cache")
        for done, (place, verdict) in enumerate(zip(todo, rest(todo) if todo else (), strict=True), 1):
            cache.put(keys[place], judge, verdict)
            verdicts[place] = verdict
            if on_verdict is not None:
                on_verdict(1, f"{done} judged by {model}")
    return [verdict for verdict in verdicts if verdict is not None]
