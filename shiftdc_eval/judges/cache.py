"""The cache of verdicts, by content: an interrupted judge continues from it.

A key is the hash of the judge's fingerprint and of the exact prompt, so a changed rubric, model or
response is judged again. Only scored verdicts are kept; failures are asked again.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from shiftdc_eval.core.errors import JudgeError
from shiftdc_eval.core.files import make_folder
from shiftdc_eval.core.json_files import explain
from shiftdc_eval.core.paths import cache_dir
from shiftdc_eval.judges.verdict import Kind, OnVerdict, Verdict

CACHE_VERSION = 1
INSTEAD = "name another folder with SHIFTDC_CACHE"
logger = logging.getLogger(__name__)
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
        JudgeError: the file cannot be used as a cache, or a newer version of this package made it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_dir() / "verdicts.sqlite3"
        make_folder(self.path.parent, INSTEAD)
        with self._usable():
            self._db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        self._db.text_factory = bytes  # what is no UTF-8 is one damaged verdict, not an error of all
        try:
            with self._usable():
                (version,) = self._db.execute("PRAGMA user_version").fetchone()
                if version > CACHE_VERSION:
                    raise JudgeError(
                        f"{self.path}: a newer version of shiftdc-eval made this cache of verdicts (version {version}, "
                        f"this one reads {CACHE_VERSION}); update shiftdc-eval, or {INSTEAD}"
                    )
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=NORMAL")
                self._db.execute(_SCHEMA)
                if version < CACHE_VERSION:
                    self._db.execute(f"PRAGMA user_version={CACHE_VERSION}")
        except BaseException:
            self._db.close()
            raise

    @contextmanager
    def _usable(self) -> Iterator[None]:
        """Turns what SQLite reports into one line that names the file."""
        try:
            yield
        except sqlite3.OperationalError as error:  # a full disk, no permission, a lock
            raise JudgeError(
                f"cannot use {self.path} as the cache of verdicts ({error}); free space or make it writable, "
                f"or {INSTEAD}"
            ) from error
        except sqlite3.Error as error:
            raise JudgeError(
                f"cannot use {self.path} as the cache of verdicts ({error}); delete it, or {INSTEAD}"
            ) from error

    def get(self, key: str, kind: Kind) -> Verdict | None:
        """The verdict kept under a key; one that is damaged or of another kind is warned of and not used.

        Raises:
            JudgeError: the cache cannot be read.
        """
        with self._usable():
            row = self._db.execute("SELECT verdict FROM verdicts WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        try:
            verdict = Verdict.model_validate_json(row[0], strict=True)
            if verdict.kind != kind or not verdict.scored:
                raise ValueError(f"no scored {kind} verdict")
        except (ValueError, TypeError) as error:
            said = "; ".join(explain(error)) if isinstance(error, ValidationError) else error
            logger.warning(
                "%s: the verdict under %s is damaged (%s); it is asked again", self.path, key, said
            )
            return None
        return verdict

    def put(self, key: str, judge: str, verdict: Verdict) -> None:
        """Keep a scored verdict; an unscored one is not kept.

        Raises:
            JudgeError: the cache cannot be written.
        """
        if verdict.scored:
            with self._usable():
                self._db.execute(
                    "INSERT OR REPLACE INTO verdicts (key, judge, verdict) VALUES (?, ?, ?)",
                    (key, judge, verdict.model_dump_json()),
                )

    def __len__(self) -> int:
        with self._usable(), closing(self._db.execute("SELECT COUNT(*) FROM verdicts")) as cursor:
            return int(cursor.fetchone()[0])

    def __enter__(self) -> VerdictCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()


def resumed(
    judge: str,
    kind: Kind,
    model: str,
    obstacles: Sequence[Verdict | None],
    keys: Sequence[str],
    rest: Callable[[list[int]], Iterator[Verdict]],
    on_verdict: OnVerdict | None,
) -> list[Verdict]:
    """Verdicts from the cache; missing ones from the judge, stored one by one.

    Args:
        obstacles: the unscored verdict of each item that cannot be judged, else None.
        keys: of each item.
        rest: places still to be judged -> their verdicts, in order; not called where there is none.
    """
    with VerdictCache() as cache:
        verdicts = [obstacle or cache.get(key, kind) for obstacle, key in zip(obstacles, keys, strict=True)]
        todo = [place for place, verdict in enumerate(verdicts) if verdict is None]
        if on_verdict is not None and len(todo) < len(verdicts):
            on_verdict(len(verdicts) - len(todo), "from cache")
        for done, (place, verdict) in enumerate(zip(todo, rest(todo) if todo else (), strict=True), 1):
            cache.put(keys[place], judge, verdict)
            verdicts[place] = verdict
            if on_verdict is not None:
                on_verdict(1, f"{done} judged by {model}")
    return [verdict for verdict in verdicts if verdict is not None]
