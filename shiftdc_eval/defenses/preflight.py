"""What is wrong with a defense's settings and files, found without the model's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from pydantic import ValidationError

from shiftdc_eval.backbones import Backbone
from shiftdc_eval.backbones.interface import ENGINES
from shiftdc_eval.backbones.loading import shape_on_disk
from shiftdc_eval.core.errors import ShiftDCError
from shiftdc_eval.core.model_spec import ModelArguments
from shiftdc_eval.core.validation import explained
from shiftdc_eval.defenses.arguments import require
from shiftdc_eval.defenses.base import Defense, Tools
from shiftdc_eval.defenses.contrast import load_contrast
from shiftdc_eval.defenses.directions import refuse_for_a_file
from shiftdc_eval.defenses.registry import DEFENSES
from shiftdc_eval.steering import SafetyDirection


def problems(
    name: str,
    settings: Mapping[str, Any],
    *,
    model: ModelArguments | None = None,
    direction: Path | None = None,
    contrast: Path | None = None,
    use_cache: bool = True,
    what: str = "model argument",
) -> Iterator[str]:
    """Everything that is wrong with a defense, a line each.

    Args:
        name: of a defense that there is.
        settings: the defense's own.
        model: the model it is to defend; its engine, and its layers where its configuration is on this machine.
        direction: file of a safety direction.
        contrast: file of a contrast set; None: the one in the model's folder, where there is one.
        use_cache: whether answers are decoded with a KV cache.
        what: what a setting is called.
    """
    defense, given = None, None
    try:
        defense = DEFENSES[name](**settings)
    except ValidationError as error:
        yield from explained(error, what)
    except ShiftDCError as error:
        yield str(error)
    own = Path(model.pretrained) / "contrast.jsonl" if model else None
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
        engine = model.engine
        yield from _said(lambda: require(checked, ENGINES[engine], engine, use_cache=use_cache))
    if shape:
        seen = cast(Backbone, SimpleNamespace(layers=range(shape[0]), hidden_size=shape[1]))
        yield from _said(lambda: checked.resolved(seen))
    if given:
        yield from _said(lambda: _uses(checked, given))


def _uses(defense: Defense, given: SafetyDirection) -> object:
    """Let a defense ask for its direction where a file has been given."""

    def source(**how: bool) -> SafetyDirection:
        refuse_for_a_file(**how)
        return given

    return defense.direction_of(cast(Tools, SimpleNamespace(direction=source)))


def _said(check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except ShiftDCError as error:
        yield str(error)
    except AttributeError:  # it looks at more of the model than is known without its weights
        return
