"""Files that are written whole or not at all."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shiftdc_eval.core.files import atomic_write


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_who_may_read_a_file_is_for_the_umask_to_say(tmp_path: Path, mask: int, mode: int) -> None:
    path = tmp_path / "folder" / "run.json"
    with umask(mask):
        for text in ("one\n", "two\r\n"):
            atomic_write(path, text)
            assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == b"two\r\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    atomic_write(path, "whole")
    with pytest.raises(UnicodeEncodeError):
        atomic_write(path, "half \ud800")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]
