"""What other installed packages bring along: their entry points, imported only when a name is used."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from shiftdc_eval.core.errors import ConfigError


def installed(group: str) -> Mapping[str, list[EntryPoint]]:
    """Name -> the entry points of that name in a group; more than one is a clash."""
    return _installed(group, tuple(sys.path))


@cache
def _installed(group: str, _path: tuple[str, ...]) -> Mapping[str, list[EntryPoint]]:
    """Looked for once: it takes as long as reading every package's metadata."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: entry.name):
        found.setdefault(entry.name, []).append(entry)
    return found


def distribution(entry: EntryPoint) -> str:
    """Name and version of the distribution that an entry point is from."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def clash(what: str, entries: Sequence[EntryPoint], *, taken: bool) -> str:
    """Why a name cannot be used: it is this package's too, or two distributions'; empty when it can.

    Args:
        what: kind and name, for the error.
        entries: the entry points of that name.
        taken: whether this package has something of that name.
    """
    brought = " and ".join(map(distribution, entries))
    if taken and entries:
        return (
            f"{what} is this package's own, and {distribution(entries[0])} brings another of that name: "
            "uninstall it or rename its entry point"
        )
    return f"{what} is brought by {brought}: uninstall one" if len(entries) > 1 else ""


def imported(entry: EntryPoint, where: str) -> Any:
    """What an entry point names.

    Raises:
        ConfigError: it cannot be imported; one line that begins with `where`.
    """
    try:
        return entry.load()
    except Exception as error:  # another package's code may fail in any way
        raise ConfigError(f"{where} cannot be imported: {said(error)}") from error


def said(error: Exception) -> str:
    """An error of another package's code in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
