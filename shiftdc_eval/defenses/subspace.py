"""Replace an activation's part in a subspace of harm by the text-only run's: ShiftDC with more than one direction.

A reconstruction after VLM-Guard (arXiv 2502.10486), for which there is no code: strength, rank and layers are open, its
two formulas do not combine, and both readings here are worded by us. `V` holds the top right singular vectors of the
contrast pairs' differences, unsafe minus safe, at each layer. With rank 1, alpha 1, `query=caption` and the safety
direction in the basis' place `project_add` is ShiftDC's `online`. FigStep's request is innocuous without its image, so
`query=raw` cannot defend against it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings
from shiftdc_eval.backbones.interface import Capability, EditBuilder
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses.base import Answer, Request, Settings, Tools, steered
from shiftdc_eval.defenses.contrast import SIDES, ContrastSet
from shiftdc_eval.defenses.directions import activations
from shiftdc_eval.defenses.layer_range import LayerRange, layer_range
from shiftdc_eval.defenses.none import images_only
from shiftdc_eval.defenses.passes import STEERS, TEXT_ALONE, Pass
from shiftdc_eval.defenses.shiftdc import ShiftDC, counterpart
from shiftdc_eval.steering import SafetyDirection, Shift, SubspaceReplacement


class Subspace(Settings):
    """The image run's coordinates in a subspace of harm are set to the text-only run's."""

    name: ClassVar[str] = "subspace"
    source: ClassVar[str] = "ours; a reconstruction after VLM-Guard (arXiv 2502.10486), constants open"
    status = "reconstruction"
    extra_cost: ClassVar[str] = "one text-only prefill (query=caption: a caption too)"
    needs: ClassVar[frozenset[Capability]] = STEERS

    variant: Literal["project_add", "push"] = "project_add"
    """`project_add`: `h - h V^T V + alpha t V^T V`; `push`: `h + alpha t V^T V`. `h` is the image run's activation, `t`
    the text-only run's."""
    query: Literal["raw", "caption"] = "raw"
    """The text-only run: the request alone, or with the model's own caption as in ShiftDC."""
    rank: int = Field(default=5, ge=1)
    """Singular vectors that are kept; 5 as in the one re-implementation of VLM-Guard that we know of."""
    alpha: float = Field(default=1.0, allow_inf_nan=False)
    """Strength of the text-only part."""
    unsafe_only: bool | None = None
    """Edit only requests whose `t` has a positive coordinate along the first singular vector; None: with `query=raw`,
    where VLM-Guard has this gate, and not with `query=caption`, since ShiftDC has none."""
    layers: LayerRange = None
    """Decoder layers, `first-last`; the upper half when None, as in ShiftDC."""
    caption_max_new_tokens: int = Field(default=1024, ge=1)
    """Length limit of a caption."""

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """All settings, with `unsafe_only` and layers spelled out.

        Raises:
            ConfigError: more singular vectors than an activation has numbers.
        """
        if self.rank > backbone.hidden_size:
            raise ConfigError(f"rank={self.rank} does not fit a model of width {backbone.hidden_size}")
        layers = self._layers(backbone)
        found = self.model_dump(mode="json")
        return {**found, "unsafe_only": self._gated, "layers": f"{layers[0]}-{layers[-1]}"}

    @property
    def _gated(self) -> bool:
        return self.query == "raw" if self.unsafe_only is None else self.unsafe_only

    def _layers(self, backbone: Backbone) -> list[int]:
        count = len(backbone.layers)
        return layer_range(self.layers, count, default_start=count // 2)

    def direction_of(self, tools: Tools) -> SafetyDirection:
        """The bases of all layers, each a row of `rank` vectors end to end."""
        return tools.direction.fitted(
            f"subspace-{self.rank}",
            lambda pairs, size: fit(tools.backbone, pairs, self.rank, batch_size=size),
        )

    def fit_prompts(self, fitted: ContrastSet) -> list[Hashable]:
        """Both sides' texts, with captions too."""
        return [(False, text) for side in SIDES for text in fitted.prompts(side)]

    def extra_passes(self) -> list[Pass]:
        """The text-only run, with `query=caption` after a caption."""
        if self.query == "raw":
            return [TEXT_ALONE]
        return ShiftDC(caption_max_new_tokens=self.caption_max_new_tokens).extra_passes()

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Answers with edited activations; requests without an image are answered undefended."""
        return images_only(tools, requests, settings, self._edited)

    def _edited(
        self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings
    ) -> list[Answer]:
        chats = [request.chat for request in requests]
        extra: list[dict[str, str]] = [{}] * len(chats)
        texts = [chat.without_images() for chat in chats]
        if self.query == "caption":
            shiftdc = ShiftDC(caption_max_new_tokens=self.caption_max_new_tokens)
            captions = shiftdc.captions(tools, chats, settings)
            extra = [{"caption": caption} for caption in captions]
            texts = [counterpart(chat, caption) for chat, caption in zip(chats, captions, strict=True)]
        answers = steered(tools, requests, settings, edit=self._edits(tools, texts))
        return [answer.with_extra(**more) for answer, more in zip(answers, extra, strict=True)]

    def _edits(self, tools: Tools, texts: Sequence[Chat]) -> EditBuilder:
        layers = self._layers(tools.backbone)
        bases = self.direction_of(tools).vectors[layers].reshape(len(layers), self.rank, -1)
        text_only = tools.backbone.last_token_activations(texts, layers)
        if self.variant == "project_add":
            return lambda rows: {
                layer: SubspaceReplacement(text_only[rows, at], bases[at], self.alpha, self._gated)
                for at, layer in enumerate(layers)
            }
        coordinates = torch.einsum("bld,lmd->blm", text_only.float().cpu(), bases)
        if self._gated:
            coordinates = coordinates * (coordinates[..., :1] > 0)
        pushed = self.alpha * torch.einsum("blm,lmd->bld", coordinates, bases)
        return lambda rows: {layer: Shift(pushed[rows, at]) for at, layer in enumerate(layers)}


def fit(backbone: Backbone, pairs: ContrastSet, rank: int, *, batch_size: int) -> Tensor:
    """Top right singular vectors of the pairs' differences at each layer, each pointing towards "unsafe" on average.

    Args:
        backbone: the model.
        pairs: each gives its request and, where it has captions, the request with a caption.
        rank: singular vectors a layer.
        batch_size: texts a forward pass.

    Returns:
        `[layers, rank * hidden]`, float32: orthonormal vectors end to end.

    Raises:
        ConfigError: fewer differences than singular vectors.
    """
    safe, unsafe = (
        activations(backbone, pairs.prompts(side), batch_size=batch_size, label=f"subspace: {side}")
        for side in SIDES
    )
    differences = (unsafe.double() - safe.double()).transpose(0, 1)
    if rank > differences.shape[1]:
        raise ConfigError(
            f"rank={rank}: the contrast set has {differences.shape[1]} pairs of texts to fit on"
        )
    basis = torch.linalg.svd(differences, full_matrices=False).Vh[:, :rank]
    towards = (differences @ basis.mT).mean(1).sign()
    found: Tensor = basis * torch.where(towards < 0, -1.0, 1.0).unsqueeze(-1)
    return found.flatten(1).float()
