"""Where runs live, and which run answered a request.

The adapter marks every request it answers, so that each sample row can name the run it came from. Another
lmms-eval model, in the same process or not, leaves no mark.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import platformdirs
from PIL import Image

RUN_MARK = "__shiftdc_run__"
"""Key of the run id in a request's metadata."""


def mark(requests: Iterable[Any], run_id: str) -> None:
    """Note on lmms-eval's requests which run answered them."""
    for request in requests:
        request.metadata = {**(request.metadata or {}), RUN_MARK: run_id}


def run_of(request: Any) -> str | None:
    """Id of the run that answered a request; None for models other than ours."""
    return (request.metadata or {}).get(RUN_MARK)


Vacate = Callable[[], AbstractContextManager[None]]
_tenants: list[weakref.WeakMethod[Vacate]] = []


def offer_room(vacate: Vacate) -> None:
    """Say that a model in this process can give up its memory for a while.

    Args:
        vacate: a bound method, not kept alive; the context it gives begins with the memory free.
    """
    withdraw_room(vacate)
    _tenants.append(weakref.WeakMethod(vacate))


def withdraw_room(vacate: Vacate) -> None:
    """Take the offer back: the model is needed again."""
    _tenants[:] = [tenant for tenant in _tenants if tenant() not in (None, vacate)]


@contextmanager
def room() -> Iterator[None]:
    """The memory of every model that was offered, for as long as the context lasts."""
    with ExitStack() as stack:
        for vacate in [tenant() for tenant in _tenants]:
            if vacate is not None:
                stack.enter_context(vacate())
        yield


def cache_dir() -> Path:
    """Folder of everything that can be made again: captions, directions (`SHIFTDC_CACHE` moves it)."""
    return Path(os.environ.get("SHIFTDC_CACHE") or platformdirs.user_cache_dir("shiftdc-eval"))


def journal_dir() -> Path:
    """Folder of journals and run records when none is named (`SHIFTDC_RUNS` moves it)."""
    return Path(os.environ.get("SHIFTDC_RUNS") or Path(platformdirs.user_data_dir("shiftdc-eval")) / "runs")


def text_sha256(text: str) -> str:
    """sha256 of a text, hex; lone surrogates are hashed too."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def image_sha256(image: Image.Image) -> str:
    """sha256 of an image's RGB pixels and size, hex: the file's name and compression do not matter."""
    rgb = image.convert("RGB")
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode())
    digest.update(rgb.tobytes())
    return digest.hexdigest()


def atomic_write(path: Path, text: str) -> None:
    """Write a file whole or not at all: temporary file beside it, fsync, rename, fsync of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # not `tempfile`, whose files nobody else may read: the umask decides
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    file = temporary.open("x", encoding="utf-8", newline="\n")
    try:
        with file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
