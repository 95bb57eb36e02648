"""The defenses by name: this package's own, and those that other installed packages bring along.

One of ours is a file here and a line in `BUILT_IN`. Another package's is an entry point of the group
`shiftdc_eval.defenses`, name -> class; its code is imported when that name is looked up, and not before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from shiftdc_eval.core.entry_points import clash, distribution, imported, installed
from shiftdc_eval.core.errors import ConfigError

if TYPE_CHECKING:
    from shiftdc_eval.defenses.base import Settings

GROUP = "shiftdc_eval.defenses"
BUILT_IN: Mapping[str, str] = {
    "none": "none.NoDefense",
    "shiftdc": "shiftdc.ShiftDC",
    "random": "shiftdc.RandomControl",
    "shiftdc_captioned": "shiftdc_captioned.ShiftDCCaptioned",
    "subspace": "subspace.Subspace",
    "ecso": "ecso.Ecso",
    "ecso_caption": "ecso.EcsoCaption",
    "adashield_s": "adashield.AdaShieldS",
    "cmrm": "cmrm.Cmrm",
    "coca": "coca.Coca",
    "refusal_direction": "refusal_direction.RefusalDirection",
    "recentred_refusal": "recentred_refusal.RecentredRefusal",
    "astra": "astra.Astra",
    "uniguard_text": "uniguard.UniGuardText",
    "blank_image": "blank_image.BlankImage",
    "refuse_all": "refuse_all.RefuseAll",
    "always_prefix": "always_prefix.AlwaysPrefix",
    "eta_prefix": "eta_prefix.EtaPrefix",
    "eta": "eta.Eta",
    "srt_raw": "srt_raw.SrtRaw",
    "rai": "rai.Rai",
    "hidden_detect": "hidden_detect.HiddenDetect",
}
"""Name -> module of this folder and class; imported when it is looked up, so that names can be checked at once."""


class Registry(MutableMapping[str, "type[Settings]"]):
    """Name -> class, whose fields are the defense's model arguments.

    Names can be listed without importing any class. `registry["mine"] = Mine` adds one in this process; it
    goes before an installed one of that name.

    Raises:
        ConfigError: on assigning what is no class of a defense; on looking up a name that an installed package
            brings, if its class cannot be imported or is none of a defense, or if the name is taken; names the
            distribution. Other names stay usable.
    """

    def __init__(self, built_in: Mapping[str, str]) -> None:
        self._built_in = dict(built_in)
        self._gone: set[str] = set()
        self._classes: dict[str, type[Settings]] = {}

    @cached_property
    def _plugged(self) -> Mapping[str, list[EntryPoint]]:
        return installed(GROUP)

    def refused(self, name: str) -> str:
        """Why a name cannot be used: several packages bring it, or it is ours too; empty where it can."""
        if name in self._classes and name not in self._built_in:
            return ""
        return clash(f"defense={name}", self._plugged.get(name, []), taken=name in self._built_in)

    def __getitem__(self, name: str) -> type[Settings]:
        entries = self._plugged.get(name, [])
        if reason := self.refused(name):
            raise ConfigError(reason)
        if name in self._classes:
            return self._classes[name]
        if name in self._built_in and name not in self._gone:
            module, _, found = self._built_in[name].partition(".")
            defense: type[Settings] = getattr(import_module(f"shiftdc_eval.defenses.{module}"), found)
            return defense
        if not entries:
            raise KeyError(name)
        where = f"defense={name} of {distribution(entries[0])} ({entries[0].value})"
        defense = _checked(imported(entries[0], where), where)
        if getattr(defense, "name", None) != name:
            raise ConfigError(f"{where} needs `name: ClassVar[str] = {name!r}`, the name of its entry point")
        return defense

    def __setitem__(self, name: str, defense: type[Settings]) -> None:
        self._classes[name] = _checked(defense, f"DEFENSES[{name!r}] = {defense!r:.80}")
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
        return distribution(self._plugged[name][0]) if plugged else ""


def _checked(found: Any, where: str) -> type[Settings]:
    from shiftdc_eval.defenses.base import Settings

    if not (isinstance(found, type) and issubclass(found, Settings) and found.answer is not Settings.answer):
        raise ConfigError(f"{where} is no class of shiftdc_eval.defenses.Settings with a method `answer`")
    return found


DEFENSES = Registry(BUILT_IN)
