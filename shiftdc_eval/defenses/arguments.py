"""Arguments that choose a defense and set it, in model arguments, grids and Python alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.validation import nearest, validated
from shiftdc_eval.defenses.registry import DEFENSES

if TYPE_CHECKING:
    from shiftdc_eval.backbones.interface import Capability
    from shiftdc_eval.defenses.base import Defense, Settings

GATE = "gate"
"""The argument that puts a detector in front of a defense; `gate_...` are its settings."""


def class_of(defense: str, given: Iterable[str]) -> type[Settings]:
    """The class of a defense; of a gated one where a gate's setting is given that the defense has not itself.

    Args:
        defense: its name.
        given: names of the settings given.
    """
    plain = DEFENSES[defense]
    if not any(name == GATE or name.startswith(f"{GATE}_") for name in set(given) - set(plain.model_fields)):
        return plain
    from shiftdc_eval.defenses.gate import gated

    return gated(plain)


def chosen(defense: str, settings: Mapping[str, Any], *, what: str) -> Defense:
    """A defense with its settings.

    Raises:
        ConfigError: a value of the wrong type or out of range.
    """
    return validated(class_of(defense, settings), settings, what=what)


def split(
    given: Mapping[str, Any], own: Iterable[str], *, what: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the given arguments into the caller's and the defense's. No other defense is imported.

    Args:
        given: argument name -> value, `defense` among them.
        own: names of the caller's own arguments.
        what: what an argument is called in errors, e.g. `model argument`.

    Raises:
        ConfigError: no or an unknown defense, one that cannot be imported, or an argument that neither knows.
    """
    defense = given.get("defense")
    if defense is None:
        for name in given.keys() - set(own):
            if nearest(name, ["defense"]):
                raise ConfigError(f"unknown {what} {name}; did you mean defense?")
        raise ConfigError(f"{what} defense= is missing; `shiftdc-eval defenses` lists them")
    known(str(defense), what=what)
    mine, theirs = {"defense", *own}, set(class_of(str(defense), given).model_fields)
    for name in given:
        if name not in mine | theirs:
            words = sorted(mine | theirs | {GATE})
            raise ConfigError(
                f"unknown {what} {name}{nearest(name, words)}; `shiftdc-eval defenses {defense}` shows its settings, "
                "docs/options.md the other model arguments"
            )
    return (
        {name: value for name, value in given.items() if name in mine},
        {name: value for name, value in given.items() if name in theirs},
    )


def known(defense: str, *, what: str = "model argument") -> None:
    """Refuse a name that no defense has; imports none.

    Raises:
        ConfigError: names the nearest one.
    """
    if defense not in DEFENSES:
        raise ConfigError(
            f"{what} defense={defense} is unknown{nearest(defense, DEFENSES)}; `shiftdc-eval defenses` lists them"
        )


def require(defense: Defense, offered: Set[Capability], engine: str, *, use_cache: bool = True) -> None:
    """Make sure that an engine can do what a defense needs at its settings.

    Args:
        defense: the defense with its settings.
        offered: what the engine's backbones can do.
        engine: its name, for the error.
        use_cache: whether answers are decoded with a KV cache.

    Raises:
        ConfigError: it cannot; names the defenses that run there.
    """
    if defense.needs_kv_cache and not use_cache:
        raise ConfigError(
            f"defense={defense.name} at these settings steers the newest token of every decode step, which needs a KV "
            "cache; leave out use_cache=false"
        )
    missing = sorted(defense.needed() - offered)
    if missing:
        raise ConfigError(
            f"defense={defense.name} at these settings needs {', '.join(missing)}, which engine={engine} does not "
            f"offer; defenses that run there: {', '.join(_running(offered))}"
        )


def _running(offered: Set[Capability]) -> Iterator[str]:
    for name in DEFENSES:
        try:
            runs = DEFENSES[name].needs <= offered
        except ConfigError:  # a plugin that cannot be imported
            continue
        if runs:
            yield name
