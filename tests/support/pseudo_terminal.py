"""A terminal of its own for a command, and all that was written to it."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence


def opened(columns: int) -> tuple[int, int]:
    """Both ends of a terminal of so many columns: ours, and the one that a command writes to."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return ours, theirs


def all_written(ours: int) -> str:
    """What is written until nobody holds the other end any more."""
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the last one to hold the terminal has ended
            break
        if not part:
            break
        written += part
    os.close(ours)
    return written.decode()


def in_terminal(command: Sequence[str], environment: Mapping[str, str], columns: int = 80) -> tuple[int, str]:
    """Exit status and all that was written to a terminal of so many columns."""
    ours, theirs = opened(columns)
    child = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = all_written(ours)
    return child.wait(), written
