"""From a contrast set to a safety direction: text-only passes, a cached file, separation per layer."""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from shiftdc_eval.backbones import Backbone, Chat
from shiftdc_eval.contrast import ContrastSet, load_contrast
from shiftdc_eval.errors import ConfigError
from shiftdc_eval.runs import cache_dir
from shiftdc_eval.steering import SafetyDirection, fit_direction, safety_coordinate

HELD_OUT = 0.2
"""Share of the contrast pairs kept out of the fit, for `show`."""


def activations(
    backbone: Backbone, texts: Sequence[str], *, batch_size: int, label: str, post_norm_last: bool = False
) -> Tensor:
    """Last-token activations of text-only requests: `[n, layers, hidden]`, float32, on the CPU."""
    parts = []
    with tqdm(total=len(texts), desc=label, unit="text", leave=False) as progress:
        for start in range(0, len(texts), batch_size):
            batch = backbone.last_token_activations(
                [Chat.ask(text) for text in texts[start : start + batch_size]]
            )
            if post_norm_last:
                batch = torch.cat([batch[:, :-1], backbone.final_norm(batch[:, -1:])], dim=1)
            parts.append(batch.float().cpu())
            progress.update(len(batch))
    return torch.cat(parts)


def fit(
    backbone: Backbone, contrast: ContrastSet, *, batch_size: int = 8, post_norm_last: bool = False
) -> SafetyDirection:
    """Fit a direction on the pairs of a contrast set that are not held out (Eq. 4)."""
    fitted, _ = contrast.split(HELD_OUT)
    sides = {
        side: activations(
            backbone,
            fitted.prompts(side),
            batch_size=batch_size,
            label=f"direction: {side}",
            post_norm_last=post_norm_last,
        )
        for side in ("safe", "unsafe")
    }
    return SafetyDirection(
        vectors=fit_direction(sides["safe"], sides["unsafe"]),
        model=backbone.name,
        revision=backbone.revision,
        template_sha256=backbone.template_sha256,
        contrast_sha256=contrast.sha256,
        samples_safe=len(sides["safe"]),
        samples_unsafe=len(sides["unsafe"]),
        created_by="post_norm_last" if post_norm_last else "fit",
    )


def cached(
    backbone: Backbone, contrast: ContrastSet, *, batch_size: int = 8, post_norm_last: bool = False
) -> SafetyDirection:
    """The direction of this model and contrast set: from the user's cache, else fitted and stored there."""
    what = [
        backbone.revision,
        backbone.template_sha256,
        str(backbone.dtype),
        backbone.attention,
        contrast.sha256,
        post_norm_last,
        HELD_OUT,
    ]
    key = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]
    path = cache_dir() / "directions" / f"{key}.safetensors"
    with _alone(path):
        if not path.exists():
            _fit_into(path, backbone, contrast, batch_size, post_norm_last)
    return SafetyDirection.load(path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process fits a direction; the others of a data-parallel run wait and take the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fit_into(
    path: Path, backbone: Backbone, contrast: ContrastSet, batch_size: int, post_norm_last: bool
) -> None:
    direction = fit(backbone, contrast, batch_size=batch_size, post_norm_last=post_norm_last)
    direction.save(path)


def check(direction: SafetyDirection, backbone: Backbone, source: Path) -> SafetyDirection:
    """The direction itself, once it is sure that it was made for this backbone.

    Raises:
        DirectionError: it was made for another model; the message says what differs.
    """
    direction.check_fits(
        layers=len(backbone.layers),
        hidden=backbone.hidden_size,
        model=backbone.name,
        revision=backbone.revision,
        template_sha256=backbone.template_sha256,
        source=str(source),
    )
    return direction


@dataclass(frozen=True)
class LayerSeparation:
    """How well a direction separates held-out safe from unsafe texts at one layer."""

    layer: int
    """Decoder layer, 0-based."""
    auroc: float
    """Area under the ROC curve of the safety coordinate, held-out texts."""
    norm: float
    """Length of the direction."""
    cosine_next: float | None
    """Cosine to the next layer's direction; None at the last layer."""


def separation(
    backbone: Backbone, direction: SafetyDirection, contrast: ContrastSet, *, batch_size: int = 8
) -> list[LayerSeparation]:
    """Separation of the contrast set's held-out fifth, per layer."""
    from sklearn.metrics import roc_auc_score  # takes a second; only this function needs it

    _, held_out = contrast.split(HELD_OUT)
    safe = activations(backbone, held_out.prompts("safe"), batch_size=batch_size, label="held-out safe")
    unsafe = activations(backbone, held_out.prompts("unsafe"), batch_size=batch_size, label="held-out unsafe")
    labels = [1] * len(safe) + [0] * len(unsafe)
    coordinates = safety_coordinate(torch.cat([safe, unsafe]), direction.vectors)
    cosines = torch.cosine_similarity(direction.vectors[:-1], direction.vectors[1:], dim=-1).tolist()
    return [
        LayerSeparation(
            layer=layer,
            auroc=float(roc_auc_score(labels, coordinates[:, layer].numpy())),
            norm=float(direction.vectors[layer].norm()),
            cosine_next=cosines[layer] if layer < len(cosines) else None,
        )
        for layer in range(direction.layers)
    ]


class Directions:
    """The safety direction of one backbone: a given file's, else from the cache, else fitted on first use.

    Args:
        backbone: the model.
        path: direction file, or None.
        contrast: contrast set file; None takes the one that comes with the model, else the built-in one.
        batch_size: texts a forward pass while fitting.

    Raises:
        DirectionError: the given direction was made for another model.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        path: Path | None = None,
        contrast: Path | None = None,
        batch_size: int = 8,
    ) -> None:
        self._backbone = backbone
        self._contrast = contrast or backbone.contrast_file
        self._batch_size = batch_size
        self._given = check(SafetyDirection.load(path), backbone, path) if path else None
        self._made: dict[bool, SafetyDirection] = {}

    def __call__(self, *, post_norm_last: bool = False) -> SafetyDirection:
        if self._given is not None:
            if post_norm_last:
                raise ConfigError(
                    "direction= cannot be combined with post_norm_last (preset=published): a file holds the direction "
                    "before the final norm; leave direction= out to have the other one fitted"
                )
            return self._given
        if post_norm_last not in self._made:
            self._made[post_norm_last] = cached(
                self._backbone,
                load_contrast(self._contrast),
                batch_size=self._batch_size,
                post_norm_last=post_norm_last,
            )
        return self._made[post_norm_last]

    def texts(self) -> set[str]:
        """Requests that the direction was fitted on, normalised; unknown (empty) for a given file."""
        if self._given is not None:
            return set()
        pairs = load_contrast(self._contrast).pairs
        return {normalised(text) for pair in pairs for text in (pair.unsafe, pair.safe)}


def normalised(text: str) -> str:
    """A text by its words alone: case and punctuation do not matter."""
    return " ".join(re.findall(r"\w+", text.lower()))
