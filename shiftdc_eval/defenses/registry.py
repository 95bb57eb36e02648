"""The defenses by name: this package's own, and those that other installed packages bring along.

One of ours is a file here and a line in `BUILT_IN`. Another package's is an entry point of the group
`shiftdc_eval.defenses`, name -> class; its code is imported when that name is looked up, and not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from shiftdc_eval.core.errors import ConfigError

if TYPE_CHECKING:
    from shiftdc_eval.defenses.base import Settings

GROUP = "shiftdc_eval.defenses"
BUILT_IN: Mapping[str, str] = {
    "none": "none.NoDefense",
    "shiftdc": "shiftdc.ShiftDC",
    "random": "shiftdc.RandomControl",
    "shiftdc_captioned": "shiftdc_captioned.ShiftDCCaptioned",
    "ecso": "ecso.Ecso",
    "ecso_caption": "ecso.EcsoCaption",
    "adashield_s": "adashield.AdaShieldS",
    "cmrm": "cmrm.Cmrm",
    "coca": "coca.Coca",
    "refusal_direction": "refusal_direction.RefusalDirection",
}
"""Name -> module of this folder and class; imported when it is looked up, so that names can be checked at once."""


class Registry(MutableMapping[str, "type[Settings]"]):
    """Name -> class, whose fields are the defense's model arguments.

    Names can be listed without importing any class. `registry["mine"] = Mine` adds one in this process; it
    goes before an installed one of that name.

    Raises:
        ConfigError: on looking up a name that an installed package brings, if its class cannot be imported or
            is none of a defense, or if the name is taken; names the distribution. Other names stay usable.
    """

    def __init__(self, built_in: Mapping[str, str]) -> None:
        self._built_in = dict(built_in)
        self._gone: set[str] = set()
        self._classes: dict[str, type[Settings]] = {}

    @cached_property
    def _plugged(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
            found.setdefault(entry.name, []).append(entry)
        return found

    def __getitem__(self, name: str) -> type[Settings]:
        entries = self._plugged.get(name, [])
        if name in self._built_in and entries:
            raise ConfigError(
                f"defense={name} is this package's own, and {_distribution(entries[0])} brings another of that "
                "name: uninstall it or rename its entry point"
            )
        if name in self._classes:
            return self._classes[name]
        if name in self._built_in and name not in self._gone:
            module, _, found = self._built_in[name].partition(".")
            defense: type[Settings] = getattr(import_module(f"shiftdc_eval.defenses.{module}"), found)
            return defense
        if not entries:
            raise KeyError(name)
        if len(entries) > 1:
            raise ConfigError(
                f"defense={name} is brought by {' and by '.join(map(_distribution, entries))}: uninstall one"
            )
        return _loaded(entries[0])

    def __setitem__(self, name: str, defense: type[Settings]) -> None:
        self._classes[name] = defense
        self._gone.discard(name)

    def __delitem__(self, name: str) -> None:
        if name in self._classes:
            del self._classes[name]
        elif name not in self._built_in or name in self._gone:
            raise KeyError(name)
        self._gone.add(name)

    def __iter__(self) -> Iterator[str]:
        ours = [name for name in self._built_in if name not in self._gone]
        return iter(dict.fromkeys([*ours, *self._classes, *self._plugged]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return any(name == one for one in self)

    def distribution(self, name: str) -> str:
        """Distribution and version that a defense was installed with; empty for our own and assigned ones."""
        plugged = name in self._plugged and name not in self._classes and name not in self._built_in
        return _distribution(self._plugged[name][0]) if plugged else ""


def _distribution(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _loaded(entry: EntryPoint) -> type[Settings]:
    from shiftdc_eval.defenses.base import Settings

    where = f"defense={entry.name} of {_distribution(entry)} ({entry.value})"
    try:
        found = entry.load()
    except Exception as error:  # another package's code may fail in any way
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ConfigError(f"{where} cannot be imported: {said}") from error
    if not (isinstance(found, type) and issubclass(found, Settings) and found.answer is not Settings.answer):
        raise ConfigError(f"{where} is no class of shiftdc_eval.defenses.Settings with a method `answer`")
    if getattr(found, "name", None) != entry.name:
        raise ConfigError(
            f"{where} needs `name: ClassVar[str] = {entry.name!r}`, the name of its entry point"
        )
    return found


DEFENSES = Registry(BUILT_IN)
