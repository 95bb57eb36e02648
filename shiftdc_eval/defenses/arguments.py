"""Arguments that choose a defense and set it, in model arguments, grids and Python alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.core.validation import nearest
from shiftdc_eval.defenses.registry import DEFENSES


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
        raise ConfigError(f"{what} defense= is missing; one of: {', '.join(DEFENSES)}")
    if defense not in DEFENSES:
        raise ConfigError(
            f"{what} defense={defense} is unknown{nearest(str(defense), DEFENSES)}; one of: {', '.join(DEFENSES)}"
        )
    mine, theirs = {"defense", *own}, set(DEFENSES[defense].model_fields)
    for name in given:
        if name not in mine | theirs:
            known = sorted(mine | theirs)
            raise ConfigError(
                f"unknown {what} {name}{nearest(name, known)}; defense={defense} knows {', '.join(known)}"
            )
    return (
        {name: value for name, value in given.items() if name in mine},
        {name: value for name, value in given.items() if name in theirs},
    )
