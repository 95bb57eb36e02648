"""ShiftDC: remove the safety component of the activation shift that an image causes (arXiv 2502.13095).

For each request the backbone captions the image; the text-only counterpart (request plus caption) is run for
its last-token activations; the image request is answered with the activation of its last prompt token
calibrated at the chosen layers. Prefill only.

Variants: `online` calibrates every layer against the activation that the layers below have already
calibrated; `paper` subtracts, at every chosen layer, the component measured once on an uncalibrated run;
`official` is `paper` with the switches of the authors' repository (Renovamen/ShiftDC, commit df91f41) at
hand. With all switches off `official` equals `paper`; `preset=published` turns all of theirs on.
`spherical`, an ablation of ours, is `online` with the norm of the activation kept: it is turned until its coordinate is
the text-only one.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings
from shiftdc_eval.backbones.interface import Capability, EditBuilder
from shiftdc_eval.defenses.base import Answer, Request, Settings, Status, Tools
from shiftdc_eval.defenses.contrast import SIDES, ContrastSet
from shiftdc_eval.defenses.layer_range import LayerRange, layer_range
from shiftdc_eval.defenses.none import images_only
from shiftdc_eval.defenses.passes import STEERS, Pass
from shiftdc_eval.defenses.prompts import prompt
from shiftdc_eval.defenses.shiftdc_auto import Calibration, choose
from shiftdc_eval.steering import (
    PREFILL,
    OnlineCalibration,
    SafetyDirection,
    Scope,
    Shift,
    safety_component,
)

SWITCHES = ("bare_text_prompt", "post_norm_last", "expert_prompt", "strip_request")
"""Switches that follow the authors' code."""
PUBLISHED: dict[str, Any] = {
    **dict.fromkeys(SWITCHES, True),
    "steer_decode": False,
    "caption_max_new_tokens": 128,
    "answer_max_new_tokens": 128,
}
"""Settings that `preset=published` applies."""
logger = logging.getLogger(__name__)


@cache
def _warn_once(said: str) -> None:
    # a grid validates a defense several times and builds it again for every cell
    logger.warning(said)


class ShiftDC(Settings):
    """ShiftDC."""

    name: ClassVar[str] = "shiftdc"
    source: ClassVar[str] = "arXiv 2502.13095; Renovamen/ShiftDC df91f41"
    status: ClassVar[Status] = "code"
    needs: ClassVar[frozenset[Capability]] = STEERS
    shares_prefixes: ClassVar[bool] = True
    extra_cost: ClassVar[str] = "caption, text-only prefill (paper, official: one more image prefill)"

    variant: Literal["online", "paper", "official", "spherical"] = "online"
    """Which reading of the method; `spherical`: ours, an ablation."""
    layers: LayerRange = None
    """Decoder layers, `first-last`, 0-based, inclusive; the upper half when None. `auto`: range and, unless it is
    given, strength are chosen on held-out pairs of the contrast set."""
    alpha: float = Field(default=1.0, allow_inf_nan=False)
    """Strength; 1 is the paper's method, 0 changes nothing."""
    one_sided: bool = False
    """Remove only a shift towards "safe"."""
    random_seed: int | None = Field(default=None, ge=0, lt=2**63)
    """Control: use a random direction of the same norm, drawn with this seed."""
    caption_max_new_tokens: int = Field(default=1024, ge=1)
    """Length limit of a caption."""
    preset: Literal["published"] | None = None
    """`official` only: every trait of the authors' repository on, captions and answers cut at 128 tokens."""
    bare_text_prompt: bool = False
    """`official` only: text-only counterparts and the texts of the direction's fit without the chat template."""
    post_norm_last: bool = False
    """`official` only: activations of the last layer are taken after the final norm."""
    expert_prompt: bool = False
    """`official` only: the answer is generated from a prompt that asks for disregard of safety."""
    strip_request: bool = False
    """`official` only: white space at the request's ends is left out."""
    steer_decode: bool = False
    """`official` only: the correction is also applied to every generated token. An option of ours, no trait of the
    authors' code, which edits the prefill alone."""
    answer_max_new_tokens: int | None = Field(default=None, ge=1)
    """`official` only: length limit of the answer, below the task's own."""

    @model_validator(mode="after")
    def _switches_fit(self) -> Self:
        used = [
            name
            for name in (*SWITCHES, "steer_decode", "preset", "answer_max_new_tokens")
            if getattr(self, name)
        ]
        if used and self.variant != "official":
            raise ValueError(f"{', '.join(used)} belongs to variant=official, not to variant={self.variant}")
        if self._auto and (
            self.name != "shiftdc" or self.variant == "official" or self.random_seed is not None
        ):
            raise ValueError(
                "layers=auto belongs to defense=shiftdc without random_seed, and not to variant=official; give the "
                "range that a run record names"
            )
        for name, value in PUBLISHED.items() if self.preset else ():
            if name in self.model_fields_set and getattr(self, name) != value:
                given = getattr(self, name)
                _warn_once(f"preset=published sets {name}={value}; {name}={given} is not used")
        return self

    @property
    def control(self) -> str:
        """A random direction is no defense."""
        return "" if self.random_seed is None else "random direction of the same norm"

    def needed(self) -> frozenset[Capability]:
        """Decode steps are edited under `steer_decode`; `post_norm_last` reads through the final norm."""
        used = self._with_preset()
        extra: dict[Capability, bool] = {
            "edit_decode": used.steer_decode,
            "final_norm": used.post_norm_last,
            "logits": self._auto,
        }
        return self.needs | {name for name, wanted in extra.items() if wanted}

    @property
    def needs_kv_cache(self) -> bool:
        """Under `steer_decode`."""
        return self._with_preset().steer_decode

    def fit_prompts(self, fitted: ContrastSet) -> list[Hashable]:
        """Both sides' texts, with captions too; under `bare_text_prompt` without the chat template."""
        bare = self._with_preset().bare_text_prompt
        return [(bare, text) for side in SIDES for text in fitted.fit_prompts(side, bare=bare)]

    def direction_of(self, tools: Tools) -> SafetyDirection:
        """The fitted direction, or the random control of its norm."""
        settings = self._with_preset()
        direction = tools.direction(post_norm_last=settings.post_norm_last, bare=settings.bare_text_prompt)
        return direction if self.random_seed is None else direction.random_like(self.random_seed)

    def _with_preset(self) -> ShiftDC:
        if self.preset is None:
            return self
        return self.model_copy(update={**PUBLISHED, "preset": None})

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """All settings, with the preset and the layers spelled out."""
        found = self._with_preset().model_dump(mode="json")
        if self._auto:
            found |= {} if "alpha" in self.model_fields_set else {"alpha": "auto"}
        else:
            layers = self.layer_indices(backbone)
            found["layers"] = f"{layers[0]}-{layers[-1]}"
        if not found["strip_request"]:
            # this setting was added later: it is left out where it is off, so that older journals still match
            del found["strip_request"]
        return found

    @property
    def _auto(self) -> bool:
        return self.layers == "auto"

    def fitted(self, tools: Tools) -> dict[str, Any]:
        """With `layers=auto` the range and the strength that were chosen, and by what."""
        if not self._auto:
            return {}
        found = self._choice(tools)
        chosen = {"layers": found.layers, "alpha": found.alpha}
        return {
            **chosen,
            "fitted": {name: fact for name, fact in asdict(found).items() if name not in chosen},
        }

    def _choice(self, tools: Tools) -> Calibration:
        def edits(layers: str, alpha: float, chats: Sequence[Chat]) -> EditBuilder:
            used = self.model_copy(update={"layers": layers, "alpha": alpha})
            captions = used.captions(tools, chats, GenerationSettings())
            texts = [counterpart(chat, caption) for chat, caption in zip(chats, captions, strict=True)]
            return used._edits(tools, chats, texts)

        alpha = self.alpha if "alpha" in self.model_fields_set else None
        settings = [self.variant, self.one_sided, self.caption_max_new_tokens, alpha]
        return tools.direction.chosen(
            f"shiftdc {settings} {self.direction_of(tools).sha256}",
            lambda fitted, held_out, size: choose(
                tools.backbone, edits, fitted, held_out, alpha=alpha, batch_size=size
            ),
        )

    def _chosen(self, tools: Tools) -> Self:
        """These settings, with what the contrast set decides filled in."""
        if not self._auto:
            return self
        found = self._choice(tools)
        return self.model_copy(update={"layers": found.layers, "alpha": found.alpha})

    @property
    def answer_version(self) -> int:
        """The switches of the authors' code were corrected once; other variants answer as before."""
        return super().answer_version + (self.preset is not None or self.bare_text_prompt)

    def layer_indices(self, backbone: Backbone) -> list[int]:
        """The decoder layers that are calibrated."""
        count = len(backbone.layers)
        return layer_range(self.layers, count, default_start=count // 2)

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """Calibrated answers; requests without an image are answered undefended and marked."""
        calibrating = self._with_preset()._chosen(tools)
        return images_only(tools, requests, settings, calibrating._calibrated)

    def extra_passes(self) -> list[Pass]:
        """Caption and text-only counterpart; unless `online` one more over the image."""
        used = self._with_preset()
        caption = ("own", used.caption_max_new_tokens)
        return [Pass("captions", caption), *used._calibration_passes(*caption)]

    def _calibration_passes(self, *caption: Hashable) -> list[Pass]:
        text = Pass("activations", ("text", *caption, self.bare_text_prompt))
        return [text] if self._compares_online else [text, Pass("activations", ("image",))]

    @property
    def _compares_online(self) -> bool:
        """Whether the current activation is compared, and not that of an unedited run."""
        return self.variant in ("online", "spherical")

    def _calibrated(
        self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings
    ) -> list[Answer]:
        chats = [request.chat for request in requests]
        captions = self.captions(tools, chats, settings)
        if self.strip_request:
            chats = [chat.with_request(chat.request.strip()) for chat in chats]
        counterparts = [counterpart(chat, caption) for chat, caption in zip(chats, captions, strict=True)]
        if self.expert_prompt:
            asked = [chat.with_request(prompt("shiftdc_expert", question=chat.request)) for chat in chats]
        else:
            asked = chats
        generated = tools.backbone.generate(
            asked,
            settings.at_most(self.answer_max_new_tokens),
            seeds=[request.seed for request in requests],
            edit=self._edits(tools, chats, counterparts),
            scope=Scope(passes="every") if self.steer_decode else PREFILL,
        )
        return [Answer.of(answer, caption=text) for answer, text in zip(generated, captions, strict=True)]

    def captions(self, tools: Tools, chats: Sequence[Chat], settings: GenerationSettings) -> list[str]:
        """The backbone's own captions of the chats' images, one joint caption a chat."""
        texts = [prompt("shiftdc_caption", query=chat.request) for chat in chats]
        if self.strip_request:  # the authors' code strips the whole prompt here, the request alone elsewhere
            texts = [text.strip() for text in texts]
        asked = [chat.with_request(text) for chat, text in zip(chats, texts, strict=True)]
        limit = settings.with_limit(self.caption_max_new_tokens)
        return tools.captions.describe(tools.backbone, asked, limit)

    def _edits(self, tools: Tools, chats: Sequence[Chat], counterparts: Sequence[Chat]) -> EditBuilder:
        layers = self.layer_indices(tools.backbone)
        direction = self.direction_of(tools)
        text_only = self._activations(tools.backbone, counterparts, bare=self.bare_text_prompt)
        if self._compares_online:
            keep_norm = self.variant == "spherical"
            return lambda rows: {
                layer: OnlineCalibration(
                    text_only[rows, at], direction.vectors[layer], self.alpha, self.one_sided, keep_norm
                )
                for at, layer in enumerate(layers)
            }
        shift = self._activations(tools.backbone, chats).float() - text_only.float()
        vectors = direction.vectors[layers].to(shift.device)
        correction = -self.alpha * safety_component(shift, vectors, one_sided=self.one_sided)
        return lambda rows: {layer: Shift(correction[rows, at]) for at, layer in enumerate(layers)}

    def _activations(self, backbone: Backbone, chats: Sequence[Chat], *, bare: bool = False) -> Tensor:
        """`[batch, chosen layers, hidden]` of the last prompt token."""
        layers = self.layer_indices(backbone)
        activations = backbone.last_token_activations(chats, layers, bare=bare)
        if self.post_norm_last and layers[-1] == len(backbone.layers) - 1:
            activations = torch.cat([activations[:, :-1], backbone.final_norm(activations[:, -1:])], dim=1)
        return activations


def counterpart(chat: Chat, caption: str) -> Chat:
    """The text-only counterpart of an image request: the same chat, the caption in place of the images."""
    return chat.without_images().with_request(
        prompt("shiftdc_text_only", query=chat.request, caption=caption)
    )


class RandomControl(ShiftDC):
    """ShiftDC along a random direction of the same norm: the effect of any shift of that size."""

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "control: ShiftDC along a random direction"
    status = "control"
    extra_cost: ClassVar[str] = "as shiftdc"

    random_seed: int | None = Field(default=0, ge=0, lt=2**63)
    """Seed of the direction."""

    @model_validator(mode="after")
    def _is_random(self) -> Self:
        if self.random_seed is None:
            raise ValueError("defense=random needs random_seed to be a number")
        return self
