"""The one place that writes files: whole or not at all, or row by row.

A write that fails (full disk, quota, no permission, a file where a folder should be) is a `WriteError` of one line
that names the path and what to do; the temporary file is removed.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shiftdc_eval.core.errors import ShiftDCError, WriteError

ADVICE = {
    errno.ENOSPC: "free space on that disk, then run the same command again",
    errno.EDQUOT: "free space within your quota, then run the same command again",
    errno.EIO: "the disk reports an error: check it, then run the same command again",
    errno.EROFS: "that file system is read-only: name another place",
    errno.EACCES: "you may not write there: change its permissions or name another place",
    errno.EPERM: "you may not write there: change its permissions or name another place",
    errno.EISDIR: "a folder stands there: name a file",
    errno.EEXIST: "a file stands where a folder is needed: name another place",
    errno.ENOTDIR: "a file stands where a folder is needed: name another place",
}
LEFTOVER = re.compile(r"\..+\.(?P<process>\d+)-[0-9a-f]{8}")
"""Names of temporary files: `.<name>.<process>-<random>`."""

_in_use: set[str] = set()
"""Names of the temporary files that this process is writing."""


@contextmanager
def writing(path: Path, instead: str = "") -> Iterator[None]:
    """Turns a failed write into one line that names the path.

    Args:
        instead: how to name another place, where the user can.

    Raises:
        WriteError: the block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        advice = ADVICE.get(error.errno or 0, "name another place")
        said = f"{path}: cannot be written: {error.strerror or error}; {advice}"
        raise WriteError(f"{said} ({instead})" if instead else said) from error


@contextmanager
def reading(path: Path, kind: type[ShiftDCError]) -> Iterator[None]:
    """Turns a failed read into an error of the given kind, one line that names the path."""
    try:
        yield
    except OSError as error:
        raise kind(
            f"{path}: cannot be read: {error.strerror or error}; check the path and its permissions"
        ) from error


def make_folder(path: Path, instead: str = "") -> None:
    """Make a folder and those above it where they are missing.

    Raises:
        WriteError: it cannot be made, or a file stands there.
    """
    with writing(path, instead):
        if not path.is_dir():
            os.makedirs(path, exist_ok=True)


def atomic_write(path: Path, content: str | bytes, mode: int | None = None, instead: str = "") -> None:
    """Write a file whole or not at all: temporary file beside it, fsync, rename, fsync of the folder.

    Args:
        content: text, written as UTF-8, or bytes.
        mode: permissions; None: those of any new file, as the umask has them.
        instead: how to name another place, where the user can.

    Raises:
        WriteError: it cannot be written; an older file of that name is as it was.
    """
    # a lone surrogate, which UTF-8 has no bytes for, becomes an escape as JSON writes it
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with replaced(path, instead) as temporary:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            _write_all(file, data)
            if mode is not None:
                os.chmod(temporary, mode)
        finally:
            os.close(file)


@contextmanager
def replaced(path: Path, instead: str = "") -> Iterator[Path]:
    """A temporary path beside a file, for a library that writes by itself; takes the file's place at the end.

    Raises:
        WriteError: it cannot be written; an older file of that name is as it was.
    """
    with writing(path, instead):
        make_folder(path.parent, instead)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        remove_leftovers(path.parent)
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
        _in_use.add(temporary.name)
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            _in_use.discard(temporary.name)
        if os.name == "posix":  # Windows opens no folder
            _sync(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder; those of running processes stay."""
    for path in folder.glob(".*"):
        found = LEFTOVER.fullmatch(path.name)
        if found and path.name not in _in_use and not _runs(int(found["process"])):
            with suppress(OSError):  # somebody else's, or gone: nothing depends on it
                os.unlink(path)


def _runs(process: int) -> bool:
    if process == os.getpid():
        return False  # an earlier process that had our number
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user, or a system that cannot say
        return True
    return True


def remove(path: Path) -> None:
    """Remove a file where it stands there.

    Raises:
        WriteError: it cannot be removed.
    """
    with writing(path), suppress(FileNotFoundError):
        os.unlink(path)


class RowFile:
    """A file that rows are appended to, by one process at a time.

    Raises:
        WriteError: it cannot be opened for writing.
    """

    def __init__(self, path: Path, instead: str = "") -> None:
        self.path, self._instead = path, instead
        with writing(path, instead):
            make_folder(path.parent, instead)
            self._file = os.open(
                path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666
            )

    def append(self, rows: bytes) -> None:
        """Write rows and wait until they are on disk; where that fails no part of them stays.

        Raises:
            WriteError: they cannot be written.
        """
        with writing(self.path, self._instead):
            size = os.fstat(self._file).st_size
            try:
                _write_all(self._file, rows)
                os.fsync(self._file)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(self._file, size)
                raise

    def cut(self, size: int) -> None:
        """Keep the first `size` bytes.

        Raises:
            WriteError: it cannot be cut.
        """
        with writing(self.path, self._instead):
            os.ftruncate(self._file, size)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(file)
