"""The caption store: captions made once, shared by every defense and run.

A caption is a backbone's greedy answer to a caption request. It is found again under everything that
can change it: weights, chat template, the whole chat (image pixels, not file names), dtype and length.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings
from shiftdc_eval.errors import JournalError

CAPTION_VERSION = 1
"""Raised by hand when the code that makes captions changes what they say."""


class CaptionStore:
    """SQLite file of captions; safe for several processes, one transaction a batch.

    Args:
        path: the file; None keeps captions in memory for the life of the store.

    Raises:
        JournalError: the file cannot be opened as a caption store.
    """

    def __init__(self, path: Path | None) -> None:
        self.made = 0
        """Captions generated through this store object."""
        self.reused = 0
        """Captions found."""
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path or ":memory:", timeout=60, isolation_level=None)
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS captions (key TEXT PRIMARY KEY, caption TEXT NOT NULL)"
            )
        except sqlite3.DatabaseError as error:
            raise JournalError(f"cannot use the caption store {path}: {error}; move the file away") from error

    def describe(self, backbone: Backbone, chats: Sequence[Chat], settings: GenerationSettings) -> list[str]:
        """One caption a chat: stored ones are looked up, the others are generated in one batch.

        Equal chats in one call are captioned once.
        """
        keys = [caption_key(backbone, chat, settings) for chat in chats]
        found = self._get(keys)
        missing = {key: chat for key, chat in zip(keys, chats, strict=True) if key not in found}
        if missing:
            answers = backbone.generate(list(missing.values()), settings)
            new = dict(zip(missing, (answer.text.strip() for answer in answers), strict=True))
            self._put(new)
            found |= new
        self.made += len(missing)
        self.reused += len(keys) - len(missing)
        return [found[key] for key in keys]

    def _get(self, keys: Sequence[str]) -> dict[str, str]:
        marks = ",".join("?" * len(keys))
        return dict(self._db.execute(f"SELECT key, caption FROM captions WHERE key IN ({marks})", keys))  # noqa: S608

    def _put(self, captions: dict[str, str]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany("INSERT OR IGNORE INTO captions VALUES (?, ?)", captions.items())
        self._db.execute("COMMIT")


def caption_key(backbone: Backbone, chat: Chat, settings: GenerationSettings) -> str:
    """sha256 of everything that can change a caption."""
    parts = [
        CAPTION_VERSION,
        backbone.revision,
        backbone.template_sha256,
        str(backbone.dtype),
        chat.key(),
        settings.key(),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
