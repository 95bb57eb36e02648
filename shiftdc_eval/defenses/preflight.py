"""What is wrong with a defense's settings and files, found without the model's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pydantic import ValidationError

from shiftdc_eval.backbones import Backbone
from shiftdc_eval.backbones.interface import offered
from shiftdc_eval.backbones.loading import shape_on_disk
from shiftdc_eval.core.errors import ConfigError, ShiftDCError, said_by
from shiftdc_eval.core.model_spec import ModelArguments
from shiftdc_eval.core.validation import explained
from shiftdc_eval.defenses.arguments import class_of, require
from shiftdc_eval.defenses.base import Defense, Tools
from shiftdc_eval.defenses.contrast import load_contrast
from shiftdc_eval.defenses.directions import refuse_for_a_file
from shiftdc_eval.steering import SafetyDirection


def problems(
    name: str,
    settings: Mapping[str, Any],
    *,
    model: ModelArguments | None = None,
    direction: Path | None = None,
    contrast: Path | None = None,
    use_cache: bool = True,
) -> Iterator[str]:
    """Everything that is wrong with a defense, a line each.

    Args:
        name: of a defense that there is.
        settings: the defense's own.
        model: the model it is to defend; its engine, and its layers where its configuration is on this machine.
        direction: file of a safety direction.
        contrast: file of a contrast set; None: the one in the model's folder, where there is one.
        use_cache: whether answers are decoded with a KV cache.
    """
    defense, given = None, None
    try:
        defense = class_of(name, settings)(**settings)
    except ValidationError as error:
        yield from explained(error, "model argument")
    except ShiftDCError as error:
        yield str(error)
    own = Path(model.pretrained) / "contrast.jsonl" if model and model.engine != "server" else None
    if path := contrast or (own if own and own.is_file() else None):
        yield from _said(lambda: load_contrast(path))
    if direction:
        try:
            given = SafetyDirection.load(direction)
        except ShiftDCError as error:
            yield str(error)
    shape = shape_on_disk(model) if model else None
    if model and given and shape and (given.layers, given.hidden) != shape:
        yield (
            f"the safety direction {direction} has {given.layers} layers x {given.hidden}, {model.pretrained} has "
            f"{shape[0]} x {shape[1]}: fit one for this model"
        )
    if defense is None:
        return
    checked = defense
    if model:
        engine, able = model.engine, offered(model)
        yield from _said(lambda: require(checked, able, engine, use_cache=use_cache))
    if shape:
        seen = cast(Backbone, SimpleNamespace(layers=range(shape[0]), hidden_size=shape[1]))
        yield from _said(lambda: checked.resolved(seen))
    if direction or contrast:
        yield from _said(lambda: require_use(checked, given, direction=direction, contrast=contrast))


class _Asked:
    """Stands for the fitted directions: notes which of them a defense asks for."""

    def __init__(self, given: SafetyDirection | None) -> None:
        self.given = given
        self.files: list[str] = []
        """Arguments that what was asked for is made from."""

    def __call__(self, **how: bool) -> SafetyDirection | None:
        self.files += ["direction", "contrast"]
        if self.given is not None:
            refuse_for_a_file(**how)
        return self.given

    def fitted(self, *_asked: object, **_how: object) -> None:
        self.files.append("contrast")

    image_shift = chosen = fitted


def uses_direction(defense: Defense) -> bool:
    """Whether the vectors of a defense are the safety direction, and not others of its own."""
    asked = _Asked(None)
    with suppress(AttributeError):
        defense.direction_of(cast(Tools, SimpleNamespace(direction=asked)))
    return "direction" in asked.files


def require_use(
    defense: Defense, given: SafetyDirection | None = None, *, direction: Path | None, contrast: Path | None
) -> None:
    """Refuse files that a defense does not look at.

    Args:
        defense: the defense with its settings.
        given: what `direction` holds, where it has been read.
        direction: file of a safety direction.
        contrast: file of a contrast set.

    Raises:
        ConfigError: names the file.
    """
    asked = _Asked(given)
    seen = cast(Tools, SimpleNamespace(direction=asked))
    for look in (defense.direction_of, defense.fitted):
        with suppress(AttributeError):  # there may be nothing to go on with
            look(seen)
    for name, path in (("direction", direction), ("contrast", contrast)):
        if path and name not in asked.files:
            raise ConfigError(
                f"model argument {name}={path} has no effect: defense={defense.name} at these settings does not "
                "use it; leave it out"
            )


def _said(check: Callable[[], object]) -> Iterator[str]:
    with suppress(AttributeError):  # it looks at more of the model than is known without its weights
        yield from said_by(check)
