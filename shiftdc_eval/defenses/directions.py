"""From a contrast set to what defenses add or subtract: passes, a cached file, separation per layer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from shiftdc_eval.backbones import Backbone, Chat
from shiftdc_eval.core.errors import ConfigError, DirectionError, ItemError, ModelError
from shiftdc_eval.core.locks import locked
from shiftdc_eval.core.paths import cache_dir
from shiftdc_eval.defenses.contrast import SIDES, ContrastSet, Side, load_contrast
from shiftdc_eval.defenses.refusal_layer import LayerChoice, choose_layer
from shiftdc_eval.steering import SafetyDirection, fit_direction, safety_coordinate

HELD_OUT = 0.2
"""Share of the contrast pairs held out of the fit, for `show` and for choosing layers."""
ANCHOR_SIZE = (224, 224)
"""Width and height of the meaningless image whose mean shift CMRM's data-set level subtracts."""


Choice = TypeVar("Choice")
_CHOSEN: dict[str, Any] = {}
"""What was chosen in this process, cached because every cell of a grid asks for it."""


def meaningless(size: tuple[int, int], kind: Literal["blank", "noise"]) -> Image.Image:
    """A white image, or uniform noise that depends on the size alone."""
    if kind == "blank":
        return Image.new("RGB", size, "white")
    width, height = size
    generator = torch.Generator().manual_seed(width * 100_003 + height)
    noise = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


@dataclass(frozen=True)
class Fit:
    """How a direction is fitted; by default as the paper does it, on texts in the chat template."""

    post_norm_last: bool = False
    """The last layer's activations are taken after the final norm."""
    bare: bool = False
    """The authors' texts (run_safety_shift.py): requests with captions alone, given to the tokenizer as they are,
    without the chat template."""

    def __str__(self) -> str:
        switches = [name for name in ("post_norm_last", "bare") if getattr(self, name)]
        return " ".join(switches) or "fit"


PAPER = Fit()
NO_TEMPLATE = "none"
"""Used instead of a template hash for a direction that was fitted on bare texts."""


def activations(
    backbone: Backbone, texts: Sequence[str], *, batch_size: int, label: str, how: Fit = PAPER
) -> Tensor:
    """Last-token activations of text-only requests: `[n, layers, hidden]`, float32, on the CPU."""
    chats = [Chat.ask(text) for text in texts]
    return torch.cat(list(_passes(backbone, chats, batch_size=batch_size, label=label, how=how)))


def _passes(
    backbone: Backbone, chats: Sequence[Chat], *, batch_size: int, label: str, how: Fit = PAPER
) -> Iterator[Tensor]:
    with tqdm(total=len(chats), desc=label, unit="text", leave=False) as progress:
        for start in range(0, len(chats), batch_size):
            batch = backbone.last_token_activations(chats[start : start + batch_size], bare=how.bare)
            if how.post_norm_last:
                batch = torch.cat([batch[:, :-1], backbone.final_norm(batch[:, -1:])], dim=1)
            yield batch.float().cpu()
            progress.update(len(batch))


def fit(
    backbone: Backbone, contrast: ContrastSet, *, batch_size: int = 8, how: Fit = PAPER
) -> SafetyDirection:
    """Fit a direction on the pairs of a contrast set that are not held out (Eq. 4)."""
    fitted, _ = contrast.split(HELD_OUT)
    sides: dict[Side, Tensor] = {}
    for side in SIDES:
        texts = fitted.fit_prompts(side, bare=how.bare)
        sides[side] = activations(backbone, texts, batch_size=batch_size, label=f"direction: {side}", how=how)
    safe, unsafe = sides["safe"], sides["unsafe"]
    samples = (len(safe), len(unsafe))
    found = _direction(backbone, fit_direction(safe, unsafe), contrast.sha256, samples, str(how))
    return replace(found, template_sha256=NO_TEMPLATE) if how.bare else found


def _direction(
    backbone: Backbone, vectors: Tensor, contrast_sha256: str, samples: tuple[int, int], created_by: str
) -> SafetyDirection:
    """Vectors of this backbone; `samples` are the numbers of safe and of unsafe texts."""
    model = (backbone.name, backbone.revision, backbone.template_sha256)
    return SafetyDirection(vectors, *model, contrast_sha256, *samples, created_by)


def fit_image_shift(
    backbone: Backbone,
    contrast: ContrastSet,
    image: Image.Image,
    *,
    kind: str,
    batch_size: int = 8,
) -> SafetyDirection:
    """The mean shift that a meaningless image causes (CMRM at data-set level, arXiv 2410.09047).

    The mean over the contrast set's fitted texts, of both sides, of activations with the image minus without it:
    `[layers, hidden]`, kept in the form of a direction.
    """
    fitted, _ = contrast.split(HELD_OUT)
    texts = [text for side in SIDES for text in fitted.prompts(side)]
    shown, alone = (
        torch.zeros(len(backbone.layers), backbone.hidden_size, dtype=torch.float64) for _ in range(2)
    )
    for total, images in ((shown, [image]), (alone, [])):
        chats = [Chat.ask(text, images) for text in texts]
        for batch in _passes(backbone, chats, batch_size=batch_size, label=f"image shift: {kind}"):
            total += batch.double().sum(0)
    half = len(texts) // 2
    samples = (half, len(texts) - half)
    vectors = ((shown - alone) / len(texts)).float()
    return _direction(backbone, vectors, f"{kind}-{contrast.sha256}", samples, kind)


def fit_midpoint(backbone: Backbone, pairs: ContrastSet, *, batch_size: int = 8) -> Tensor:
    """Midway between the mean activations of both sides' texts: `[layers, hidden]`, float32."""
    means = [
        activations(backbone, pairs.prompts(side), batch_size=batch_size, label=f"midpoint: {side}")
        .double()
        .mean(0)
        for side in SIDES
    ]
    return torch.stack(means).mean(0).float()


def cached(
    backbone: Backbone,
    contrast: ContrastSet,
    *,
    batch_size: int = 8,
    how: Fit = PAPER,
) -> SafetyDirection:
    """The direction of this model and contrast set: from the user's cache, else fitted and stored there."""
    return _kept(
        backbone,
        contrast,
        [how.post_norm_last, HELD_OUT, *(["bare", "captioned"] if how.bare else [])],
        lambda: fit(backbone, contrast, batch_size=batch_size, how=how),
    )


def _key(backbone: Backbone, contrast: ContrastSet, what: Sequence[object]) -> str:
    """Everything that can change what is fitted."""
    known = [
        backbone.revision,
        backbone.template_sha256,
        str(backbone.dtype),
        backbone.attention,
        contrast.sha256,
        *what,
    ]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:24]


def _kept(
    backbone: Backbone, contrast: ContrastSet, what: Sequence[object], make: Callable[[], SafetyDirection]
) -> SafetyDirection:
    path = cache_dir() / "directions" / f"{_key(backbone, contrast, what)}.safetensors"
    with locked(path.with_suffix(".lock")):  # the other ranks of a data-parallel run wait and load it
        if not path.exists():
            with _fitting():
                found = make()
            if not found.vectors.isfinite().all():
                raise DirectionError(
                    f"what {backbone.name} shows of the contrast set holds NaN or infinity, so nothing can be fitted "
                    "on it; load the model in another dtype"
                )
            found.save(path)
    return SafetyDirection.load(path)


@contextmanager
def _fitting() -> Iterator[None]:
    """What cannot be fitted is no fault of the request that asked for it first: all others need it too."""
    try:
        yield
    except ItemError as error:
        raise ModelError(f"nothing can be fitted on the contrast set: {error}") from error


def check(direction: SafetyDirection, backbone: Backbone, source: Path) -> SafetyDirection:
    """The direction, after a check that it was made for this backbone.

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


def refuse_for_a_file(*, post_norm_last: bool = False, bare: bool = False) -> None:
    """Refuse to take a direction from a file where it is to be fitted in another way than files are.

    Raises:
        ConfigError: names the settings.
    """
    if post_norm_last or bare:
        raise ConfigError(
            "direction= cannot be combined with post_norm_last or bare_text_prompt (preset=published sets "
            "both): a file holds the direction of templated texts before the final norm; leave direction= out "
            "to have the other one fitted"
        )


class Directions:
    """Directions and layers of one backbone, each fitted once.

    The safety direction is a given file's, else from the cache, else fitted on first use.

    Args:
        backbone: the model.
        path: direction file, or None.
        contrast: contrast set or its file; None takes the one that comes with the model, else the built-in one.
        batch_size: texts a forward pass while fitting.

    Raises:
        DirectionError: the given direction was made for another model.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        path: Path | None = None,
        contrast: Path | ContrastSet | None = None,
        batch_size: int = 8,
    ) -> None:
        self._backbone = backbone
        self._source = contrast or backbone.contrast_file
        self._batch_size = batch_size
        self._given = check(SafetyDirection.load(path), backbone, path) if path else None
        self._made: dict[Fit | str, SafetyDirection] = {}

    @cached_property
    def _contrast(self) -> ContrastSet:
        return self._source if isinstance(self._source, ContrastSet) else load_contrast(self._source)

    @property
    def other_contrast(self) -> str | None:
        """Hash of the contrast set where the given direction was fitted on another one."""
        if self._given is None or self._given.contrast_sha256 == self._contrast.sha256:
            return None
        return self._contrast.sha256

    def __call__(self, *, post_norm_last: bool = False, bare: bool = False) -> SafetyDirection:
        """The safety direction.

        Raises:
            ConfigError: a file was given, and the direction is to be fitted in another way than files are.
        """
        how = Fit(post_norm_last, bare)
        if self._given is not None:
            refuse_for_a_file(post_norm_last=post_norm_last, bare=bare)
            return self._given
        if how not in self._made:
            self._made[how] = cached(self._backbone, self._contrast, batch_size=self._batch_size, how=how)
        return self._made[how]

    def image_shift(self, against: Literal["blank", "noise"]) -> SafetyDirection:
        """The mean shift that a meaningless image causes (see `fit_image_shift`)."""
        kind = f"image_shift-{against}"
        if kind not in self._made:
            self._made[kind] = _kept(
                self._backbone,
                self._contrast,
                [HELD_OUT, kind, *ANCHOR_SIZE],
                lambda: fit_image_shift(
                    self._backbone,
                    self._contrast,
                    meaningless(ANCHOR_SIZE, against),
                    kind=kind,
                    batch_size=self._batch_size,
                ),
            )
        return self._made[kind]

    def fitted(
        self,
        kind: str,
        vectors: Callable[[ContrastSet, int], Tensor | tuple[Tensor, str]],
        *,
        held_out: bool = False,
    ) -> SafetyDirection:
        """Other vectors of the contrast set: from the cache, else fitted on the pairs that are not held out.

        Args:
            kind: names what is fitted, with every setting that changes it.
            vectors: fits them, from those pairs and the number of texts a forward pass: `[layers, any width]`, and
                where there is something to say about them a note, which the direction has as `created_by`.
            held_out: take the pairs that are held out instead.
        """

        def fit() -> SafetyDirection:
            pairs = self._contrast.split(HELD_OUT)[held_out]
            made = vectors(pairs, self._batch_size)
            rows, note = made if isinstance(made, tuple) else (made, kind)
            samples = (len(pairs.prompts("safe")), len(pairs.prompts("unsafe")))
            return _direction(self._backbone, rows, f"{kind}-{self._contrast.sha256}", samples, note)

        name = f"{kind} (held out)" if held_out else kind
        if name not in self._made:
            self._made[name] = _kept(self._backbone, self._contrast, [HELD_OUT, name], fit)
        return self._made[name]

    def chosen(self, kind: str, choose: Callable[[ContrastSet, ContrastSet, int], Choice]) -> Choice:
        """What is chosen on the contrast set, once in a process.

        Args:
            kind: names what is chosen, with everything that changes it besides the model and the contrast set.
            choose: chooses, from the fitted pairs, the held-out pairs and the number of texts a forward pass.
        """
        key = _key(self._backbone, self._contrast, [HELD_OUT, kind])
        if key not in _CHOSEN:
            with _fitting():
                _CHOSEN[key] = choose(*self._contrast.split(HELD_OUT), self._batch_size)
        found: Choice = _CHOSEN[key]
        return found

    def refusal_layer(self) -> LayerChoice:
        """The layer at whose input a refusal direction is added, chosen on the held-out pairs."""
        direction = self()
        return self.chosen(
            f"refusal_layer {direction.sha256}",
            lambda fitted, held_out, size: choose_layer(
                self._backbone, direction, fitted, held_out, batch_size=size
            ),
        )

    def texts(self, *, fitted: bool = False) -> set[str]:
        """Normalised requests that the direction was fitted on; empty (unknown) for a direction from a file.

        Args:
            fitted: more than the direction was fitted on the contrast set, so its texts count with a file too.
        """
        if self._given is not None and not fitted:
            return set()
        pairs = self._contrast.pairs
        return {normalised(text) for pair in pairs for text in (pair.unsafe, pair.safe)}


def normalised(text: str) -> str:
    """The words of a text in lower case, without punctuation."""
    return " ".join(re.findall(r"\w+", text.lower()))
