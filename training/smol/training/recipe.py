"""Every number that training depends on besides the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from shiftdc_eval.core.errors import ConfigError

STAGES = ("tower", "language", "reading", "joint")
"""In this order; see `training.Trainer`."""


@dataclass(frozen=True)
class Recipe:
    """Sizes of the data, the model and the stages."""

    own_phrases: int = 2000
    """At most so many of our own benign phrases."""
    made_phrases: int = 9000
    """How many phrases the base begins; about half are of use."""
    captions: int = 320_000
    answers: int = 120_000
    pairs: int = 20_000
    texts: int = 200_000
    kept: int = 500
    """Rows of each kind that are kept for the running score, at most a chunk."""
    rank: int = 64
    width: int = 384
    layers: int = 6
    tower_steps: int = 12000
    language_steps: int = 3000
    reading_steps: int = 8000
    joint_steps: int = 9000
    tower_batch: int = 256
    text_batch: int = 64
    reading_captions: int = 64
    reading_texts: int = 24
    joint_captions: int = 36
    joint_answers: int = 28
    joint_pairs: int = 4
    joint_texts: int = 36
    tower_rate: float = 1e-3
    language_rate: float = 6e-4
    joint_rate: float = 6e-4
    joint_tower_rate: float = 2e-4
    label_weight: float = 0.1
    text_weight: float = 0.5
    answer_weight: float = 0.5

    def steps(self, stage: str) -> int:
        """Steps of a stage, at most."""
        return int(getattr(self, f"{stage}_steps"))


def changed(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with `NAME=NUMBER` settings applied.

    Raises:
        ConfigError: an unknown name, or no number.
    """
    numbers = named_numbers("--set", settings, [f.name for f in fields(Recipe)])
    return replace(recipe, **{name: type(getattr(recipe, name))(value) for name, value in numbers.items()})


def named_numbers(option: str, settings: Sequence[str], known: Sequence[str]) -> dict[str, float]:
    """`NAME=NUMBER` settings of an option of the command line.

    Raises:
        ConfigError: a name that is not among `known`, or no number.
    """
    found: dict[str, float] = {}
    for setting in settings:
        name, _, number = setting.partition("=")
        if name not in known:
            raise ConfigError(
                f"{option} {setting}: there is no {name!r}; it is one of {', '.join(sorted(known))}"
            )
        try:
            found[name] = float(number)
        except ValueError as error:
            raise ConfigError(
                f"{option} {setting}: {number!r} is no number; give {option} {name}=NUMBER"
            ) from error
    return found


def schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate at one step: linear warm-up, then a cosine down to 2 %."""
    warmup = max(1, min(200, steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def fitting(steps: int, done: int, each: float, left: float) -> int:
    """So many of the steps that those not done yet, `each` seconds long, take `left` seconds; one more at least."""
    return min(steps, done + max(1, int(left / each)))
