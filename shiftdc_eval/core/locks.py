"""Locks between processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from shiftdc_eval.core.files import make_folder, writing

logger = logging.getLogger(__name__)


class FileLock(filelock.FileLock):
    """A file's lock: `filelock.FileLock` under another class.

    lmms-eval gives every user of `filelock.FileLock` in a process the same object for a path, so that two of them
    could hold one lock at the same time; it leaves other classes alone.
    """


class Busy(Exception):
    """Another process holds the lock."""


def lock(path: Path, *, wait: bool = True, instead: str = "") -> FileLock:
    """Acquire a lock that ends with the process, whatever ends it; the caller releases it.

    Args:
        path: the lock's file, which stays when the lock is released; its folder is made where it is missing.
        wait: wait for whoever holds it.
        instead: how to name another place, for the error.

    Raises:
        Busy: somebody holds it, and `wait` is False.
        WriteError: the file cannot be made.
    """
    with writing(path, instead):
        make_folder(path.parent, instead)
        found = FileLock(path, timeout=-1 if wait else 0)
        try:
            found.acquire()
        except filelock.Timeout:
            raise Busy(str(path)) from None
    return found


@contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[None]:
    """Hold a lock for the time of a block and leave no file of it; waits for whoever holds it.

    Whoever waits for the lock notices that its file was removed and makes a new one: filelock sees to that.

    Args:
        waiting: said where somebody else holds it.

    Raises:
        WriteError: the file cannot be made.
    """
    try:
        held = lock(path, wait=not waiting)
    except Busy:
        logger.warning(waiting)
        held = lock(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        held.release()
