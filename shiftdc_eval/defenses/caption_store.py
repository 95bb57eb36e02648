"""The caption store: what the undefended backbone says greedily, made once, shared by every defense and run.

Captions and first answers (ECSO) are looked up by everything that can change them: weights, chat
template, the whole chat (image pixels, not file names), dtype, attention kernel and length limit. Each entry
keeps the seconds it took and the hardware, so that a defense's cost can be reported as if nothing had been
reused; seconds measured on other hardware are never reported.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shiftdc_eval.backbones import Backbone, Chat, Generated, GenerationSettings
from shiftdc_eval.core.errors import JournalError
from shiftdc_eval.core.files import make_folder

STORE_VERSION = 2
"""Raised by hand when the code that makes these answers changes them, or the table changes."""


def clock(backbone: Backbone) -> float:
    """Wall-clock seconds plus the time that cached results originally took."""
    return time.perf_counter() + float(getattr(backbone, "reused_seconds", 0.0))


class CaptionStore:
    """SQLite file of greedy answers; safe for several processes and threads, one transaction per batch.

    Args:
        path: the file; None keeps the answers in memory for the life of the store.

    Raises:
        JournalError: the file cannot be opened as a caption store.
    """

    def __init__(self, path: Path | None) -> None:
        self.made = 0
        """Answers generated through this store object."""
        self.reused = 0
        """Answers found."""
        self.reused_seconds = 0.0
        """Seconds that the found answers took when they were made, on this hardware."""
        self.reused_tokens = (0, 0)
        """Prompt and answer tokens of the found answers."""
        self.untimed = 0
        """Found answers that were made on other hardware; their seconds are not counted."""
        self._path = path
        self._alone = threading.Lock()
        """Held where the file is used and where the counts change."""
        if path is not None:
            make_folder(path.parent, "set SHIFTDC_CACHE to another folder")
        try:
            self._db = sqlite3.connect(
                path or ":memory:", timeout=60, isolation_level=None, check_same_thread=False
            )
            self._db.execute(
                f"CREATE TABLE IF NOT EXISTS answers_{STORE_VERSION} (key TEXT PRIMARY KEY, text TEXT NOT NULL, "
                "tokens_in INTEGER NOT NULL, tokens_out INTEGER NOT NULL, seconds REAL NOT NULL)"
            )
            self._db.execute(
                f"CREATE TABLE IF NOT EXISTS made_on_{STORE_VERSION} (key TEXT PRIMARY KEY, hardware TEXT NOT NULL)"
            )
            tables = [name for (name,) in self._db.execute("SELECT name FROM sqlite_master")]
        except sqlite3.Error as error:
            raise self._broken(error) from error
        versions = [int(found[1]) for name in tables if (found := re.fullmatch(r"answers_(\d+)", name))]
        if max(versions) > STORE_VERSION:
            raise JournalError(
                f"the caption store {path} was written by a newer version of shiftdc-eval (version {max(versions)}, "
                f"this one writes {STORE_VERSION}): upgrade, or set SHIFTDC_CACHE to another folder"
            )

    @contextmanager
    def for_one_answer(self) -> Iterator[CaptionStore]:
        """A store on the same file with counts of its own, for another thread."""
        other = CaptionStore(self._path)
        try:
            yield other
        finally:
            other._db.close()

    def describe(self, backbone: Backbone, chats: Sequence[Chat], settings: GenerationSettings) -> list[str]:
        """One caption a chat, without white space around it."""
        return [answer.text.strip() for answer in self.answers(backbone, chats, settings)]

    def answers(
        self, backbone: Backbone, chats: Sequence[Chat], settings: GenerationSettings
    ) -> list[Generated]:
        """One greedy answer a chat: stored ones are looked up, the others are generated in one batch.

        Equal chats in one call are answered once. An answer from the store has no token ids.
        """
        assert not settings.do_sample, "only greedy answers are stored"
        keys = [answer_key(backbone, chat, settings) for chat in chats]
        hardware = backbone.hardware
        found = self._get(keys, hardware)
        missing = {key: chat for key, chat in zip(keys, chats, strict=True) if key not in found}
        known = [found[key][1] for key in keys if key in found]
        with self._alone:
            self.reused += len(known)
            self.reused_seconds += sum(seconds for seconds in known if seconds is not None)
            self.untimed += known.count(None)
            self.made += len(missing)
            for answer in (found[key][0] for key in keys if key in found):
                tokens_in, tokens_out = self.reused_tokens
                self.reused_tokens = (tokens_in + answer.tokens_in, tokens_out + answer.tokens_out)
        if missing:
            begun = clock(backbone)
            made = dict(zip(missing, backbone.generate(list(missing.values()), settings), strict=True))
            seconds = (clock(backbone) - begun) / len(missing)
            self._put(made, seconds, hardware)
            found |= {key: (answer, seconds) for key, answer in made.items()}
        return [found[key][0] for key in keys]

    def keep(
        self,
        backbone: Backbone,
        chats: Sequence[Chat],
        settings: GenerationSettings,
        answers: Sequence[Generated],
        seconds: float,
    ) -> None:
        """Store greedy answers made elsewhere; `seconds` is what the whole batch took."""
        keys = (answer_key(backbone, chat, settings) for chat in chats)
        hardware = backbone.hardware
        self._put(dict(zip(keys, answers, strict=True)), seconds / max(1, len(chats)), hardware)

    def _get(self, keys: Sequence[str], hardware: str) -> dict[str, tuple[Generated, float | None]]:
        """Answers by key, with their seconds; None where they were made on other hardware."""
        try:
            with self._alone:
                return self._found(keys, hardware)
        except sqlite3.Error as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception | str) -> JournalError:
        return JournalError(
            f"cannot use the caption store {self._path}: {error}; move the file away, or set SHIFTDC_CACHE"
        )

    def _found(self, keys: Sequence[str], hardware: str) -> dict[str, tuple[Generated, float | None]]:
        marks = ",".join("?" * len(keys))
        query = (
            f"SELECT key, text, tokens_in, tokens_out, seconds, hardware FROM answers_{STORE_VERSION} "  # noqa: S608
            f"LEFT JOIN made_on_{STORE_VERSION} USING (key) WHERE key IN ({marks})"
        )
        found = {}
        for key, text, tokens_in, tokens_out, seconds, made_on in self._db.execute(query, keys):
            counts = (tokens_in, tokens_out)
            if not (
                isinstance(text, str)
                and all(isinstance(count, int) and count >= 0 for count in counts)
                and isinstance(seconds, float)
                and 0 <= seconds < math.inf
            ):
                raise self._broken(
                    f"its entry {key} holds text {text!r:.40}, tokens {counts}, seconds {seconds!r}"
                )
            found[key] = Generated(text, *counts, ()), seconds if made_on == hardware else None
        return found

    def _put(self, answers: dict[str, Generated], seconds: float, hardware: str) -> None:
        rows = [(key, a.text, a.tokens_in, a.tokens_out, seconds) for key, a in answers.items()]
        insert = f"INSERT OR IGNORE INTO answers_{STORE_VERSION} VALUES (?, ?, ?, ?, ?)"  # noqa: S608
        place = f"INSERT OR IGNORE INTO made_on_{STORE_VERSION} VALUES (?, ?)"  # noqa: S608
        try:
            with self._alone, self._db:  # commits, or rolls back
                self._db.execute("BEGIN IMMEDIATE")
                for row in rows:
                    if self._db.execute(insert, row).rowcount:  # an existing answer keeps its hardware
                        self._db.execute(place, (row[0], hardware))
        except sqlite3.Error as error:
            raise self._broken(error) from error


def engine_key(backbone: Backbone) -> dict[str, str]:
    """The engine where it may change an answer: in float32 all give the same tokens, in 16 bit they may not."""
    exact = str(backbone.dtype).removeprefix("torch.") == "float32"
    if exact or backbone.engine == "transformers":
        return {}
    return {"engine": f"{backbone.engine} {getattr(backbone, 'engine_version', '')}".strip()}


def answer_key(backbone: Backbone, chat: Chat, settings: GenerationSettings) -> str:
    """sha256 of everything that can change a greedy answer."""
    parts = [
        STORE_VERSION,
        backbone.revision,
        backbone.template_sha256,
        str(backbone.dtype),
        backbone.attention,
        *engine_key(backbone).values(),
        chat.key(),
        settings.key(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
