"""Locks between processes."""

from __future__ import annotations

import filelock


class FileLock(filelock.FileLock):
    """A file's lock: `filelock.FileLock` under another class.

    lmms-eval gives every user of `filelock.FileLock` in a process the same object for a path, so that two of them
    could hold one lock at the same time; it leaves other classes alone.
    """
