"""Failing writes and kills at every point where a program writes.

`run` calls a program in a forked process in which every system call that changes files below a folder is counted, and
the n-th one fails or ends in SIGKILL. It covers whatever writes: the package's one boundary (`core.files`), SQLite
and the files that lmms-eval saves.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import gc
import io
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Program = Callable[[], int]
KILL = 0
"""The fault that is no error: SIGKILL, in the middle of the write."""
ERRORS = (errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS)
MOMENTS = {
    "half": lambda size: size // 2,
    "one byte": lambda size: min(1, size),
    "all but the last byte": lambda size: max(0, size - 1),
}
"""How much of a write a kill leaves; that it leaves none or all of it is the kill after the last point or before the
next."""
CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SQLITE = {
    errno.ENOSPC: "database or disk is full",
    errno.EACCES: "unable to open database file",
    errno.EIO: "disk I/O error",
    errno.EROFS: "attempt to write a readonly database",
}


@dataclass(frozen=True)
class Ended:
    """How a program ended."""

    status: int
    """Exit status; -9 after SIGKILL."""
    output: str
    """What it printed."""
    points: list[str]
    """The points where it wrote, up to its end."""


@dataclass
class Injector:
    """Counts the writes below a folder; the `at`-th fails with `fault`, and with `stays` all after it."""

    under: Path
    log: int
    """File descriptor that takes the names of the points."""
    at: int = 0
    fault: int = KILL
    stays: bool = False
    moment: str = "half"
    count: int = 0
    _paths: dict[int, str] = field(default_factory=dict)

    def point(self, name: str, path: Any, part: Callable[[], Any] = lambda: None) -> None:
        """One write; `part` does a part of it before a kill."""
        self.count += 1
        REAL["write"](self.log, f"{name} {Path(str(path)).name}\n".encode())
        if self.count == self.at or (self.stays and 0 < self.at < self.count):
            if self.fault == KILL:
                part()
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self.fault, os.strerror(self.fault), str(path))

    def ours(self, path: Any) -> bool:
        return str(self.under) in os.path.abspath(os.fsdecode(path)) if not isinstance(path, int) else False

    def part(self, content: Any) -> Any:
        """What a kill leaves of a write."""
        return content[: MOMENTS[self.moment](len(content))]

    def _of(self, file: int) -> str:
        return self._paths.get(file) or os.readlink(f"/proc/self/fd/{file}")

    def install(self) -> None:
        """Replace what changes files, in this process for good."""

        def by_path(name: str, which: int = 0) -> None:
            def call(*args: Any, **options: Any) -> Any:
                # a folder that is there is told before a disk that is full
                if self.ours(args[which]) and not (name == "mkdir" and os.path.isdir(args[which])):
                    self.point(name, args[which])
                return REAL[name](*args, **options)

            setattr(os, name, call)

        for name in ("mkdir", "unlink", "remove", "rmdir", "chmod"):
            by_path(name)
        for name in ("replace", "rename"):
            by_path(name, 1)

        def open_(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            if flags & CHANGING and self.ours(path):
                self.point("open", path)
            file = REAL["open"](path, flags, *rest, **options)
            self._paths[file] = os.path.abspath(os.fsdecode(path))
            return int(file)

        def by_file(name: str) -> None:
            def call(file: int, *rest: Any) -> Any:
                path = self._of(file)
                if self.ours(path):
                    some = (
                        (lambda: REAL["write"](file, self.part(rest[0]))) if name == "write" else lambda: None
                    )
                    self.point(name, path, some)
                # a kill does not take what the system has not yet put on disk
                return None if name == "fsync" else REAL[name](file, *rest)

            setattr(os, name, call)

        os.open = open_  # type: ignore[assignment]
        for name in ("write", "fsync", "ftruncate"):
            by_file(name)

        def open_file(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+") or not self.ours(path):
                return REAL["open_file"](path, mode, *rest, **options)
            self.point("open", path)
            file = REAL["open_file"](path, mode, *rest, **options)
            write = file.write

            def part(content: Any) -> None:
                write(self.part(content))
                file.flush()

            def call(content: Any) -> Any:
                self.point("write", path, lambda: part(content))
                return write(content)

            file.write = call
            return file

        builtins.open = io.open = open_file  # type: ignore[assignment]
        injector = self

        class Connection(sqlite3.Connection):
            def execute(self, query: str, *rest: Any) -> Any:
                if not query.lstrip().upper().startswith("SELECT"):
                    try:
                        injector.point("sqlite " + query.split()[0], "database")
                    except OSError as error:
                        raise sqlite3.OperationalError(SQLITE[error.errno or 0]) from None
                return super().execute(query, *rest)

        def connect(path: Any, *args: Any, **options: Any) -> Any:
            found = REAL["connect"](
                path, *args, **options, **({"factory": Connection} if self.ours(path) else {})
            )
            return found

        sqlite3.connect = connect


REAL: dict[str, Any] = {
    name: getattr(os, name)
    for name in (
        *(
            "mkdir",
            "unlink",
            "remove",
            "rmdir",
            "chmod",
            "replace",
            "rename",
            "open",
            "write",
            "fsync",
            "ftruncate",
        ),
    )
} | {"open_file": builtins.open, "connect": sqlite3.connect}


def run(
    program: Program,
    under: Path,
    aside: Path,
    *,
    at: int = 0,
    fault: int = KILL,
    stays: bool = False,
    moment: str = "half",
) -> Ended:
    """Run a program in a process of its own, with a fault at its `at`-th write below a folder.

    Args:
        program: returns its exit status.
        under: folder whose writes count.
        aside: folder outside of it, for what the process prints.
        at: 0: no fault.
        stays: the writes after it fail as well, as on a full disk.
        moment: one of `MOMENTS`, how much of a write a kill leaves.
    """
    output, log = aside / "output.txt", aside / "points.txt"
    gc.freeze()  # else its rounds in the child copy the parent's memory
    child = os.fork()
    if child == 0:
        _in_child(program, Injector(under, _opened(log), at, fault, stays, moment), _opened(output))
    _, status = os.waitpid(child, 0)
    points = log.read_text(encoding="utf-8").splitlines()
    return Ended(
        os.waitstatus_to_exitcode(status), output.read_text(encoding="utf-8", errors="replace"), points
    )


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)


def _in_child(program: Program, injector: Injector, output: int) -> None:
    status = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = sys.stderr = io.TextIOWrapper(io.FileIO(output, "w"), "utf-8", write_through=True)
        injector.install()
        status = program()
        injector.point("end", injector.under)
    except SystemExit as stop:
        status = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
    os._exit(status)


def temporary(folder: Path) -> list[str]:
    """Temporary files below a folder, without the files of locks."""
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob(".*")
        if path.is_file() and path.suffix != ".lock"
    ]
