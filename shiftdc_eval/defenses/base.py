"""What a defense is: it stands between requests and the backbone and answers a batch of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from shiftdc_eval.backbones import Backbone, Chat, Generated, GenerationSettings
from shiftdc_eval.backbones.interface import Capability, EditBuilder
from shiftdc_eval.core.errors import Blame
from shiftdc_eval.core.records import ANSWER_VERSION
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.defenses.passes import Pass
from shiftdc_eval.steering import PREFILL, SafetyDirection, Scope

if TYPE_CHECKING:
    from shiftdc_eval.defenses.contrast import ContrastSet
    from shiftdc_eval.defenses.directions import Directions

Status = Literal["", "code", "text", "reconstruction", "ours", "control"]
NOT_APPLICABLE = "not_applicable"
"""Note on an answer that was left undefended because the request has no image."""
OVER_CONTEXT = "over_context"
"""Note on an answer whose prompt is longer than the model's context."""
REFUSED_BY_DETECTOR = "refused_by_detector"
"""Note on an answer that is a detector's template: the model was not asked."""
SENT_ON = "sent_on"
"""Note on an answer that a gate gave to the defense behind it."""
DETECTOR_SCORE = "detector_score"
"""Entry in `Answer.extra`: the score that a detector or a gate decided by."""
BEGUN = "begun"
"""Entry in `Answer.extra`: words at the answer's start that the defense put there; keyword judges leave them out."""


@dataclass(frozen=True)
class Request:
    """One request of a batch."""

    chat: Chat
    """What is asked."""
    seed: str = ""
    """Fixes the sampling of this request."""
    image_text: str | None = None
    """Description of the image from the data, where there is one; used by the ablation `shiftdc_captioned` alone."""


@dataclass(frozen=True)
class Answer:
    """One answer."""

    text: str
    """What the user would see."""
    tokens_in: int
    """Prompt tokens of the final pass, image tokens included."""
    tokens_out: int
    """Generated tokens of the answer itself."""
    notes: tuple[str, ...] = ()
    """Notes on how it was made, e.g. `not_applicable`."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further information for the reader, e.g. the caption; JSON-ready."""
    unanswered: str = ""
    """Why there is no answer; the text is empty then."""
    blame: Blame = "item"
    """What a missing answer is due to; what is not the item's own fault is asked again at the next start."""

    @classmethod
    def of(cls, generated: Generated, *notes: str, **extra: Any) -> Answer:
        """The answer that a backbone generated."""
        return cls(generated.text, generated.tokens_in, generated.tokens_out, notes, extra)

    def with_extra(self, *notes: str, **extra: Any) -> Answer:
        """The same answer with additional notes and `extra` entries."""
        return replace(self, notes=(*self.notes, *notes), extra={**self.extra, **extra})


@dataclass(frozen=True)
class Tools:
    """What a defense works with."""

    backbone: Backbone
    """The model."""
    captions: CaptionStore
    """Captions shared by all defenses and runs."""
    direction: Directions
    """Directions and layers fitted on the backbone's contrast set, on first use."""


class Settings(BaseModel):
    """A defense with its settings: each field is a model argument; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: ClassVar[str]
    """As in `defense=NAME`."""
    source: ClassVar[str] = ""
    """Paper or repository, for `shiftdc-eval defenses`."""
    status: ClassVar[Status] = ""
    """What it was checked against: the authors' code, the paper's text alone, or nothing that states all constants."""
    shares_prefixes: ClassVar[bool] = False
    """Whether several prompts about the same images are run: fewer requests at a time keep the prefixes stored."""
    extra_cost: ClassVar[str] = "-"
    """What an answer costs beyond the undefended one, in words."""
    needs: ClassVar[frozenset[Capability]] = frozenset({"generate"})
    """What a backbone must be able to do, at the default settings."""
    asks_model: ClassVar[bool] = True
    """False where an answer takes no pass of the model."""
    answer_changes: ClassVar[int] = 0
    """Raised by hand when a change of this defense's code changes its answers; finished answers are then not reused."""

    def answer(self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings) -> list[Answer]:
        """One answer a request, in order.

        Args:
            tools: backbone, caption store, direction.
            requests: a batch that shares its generation settings; with and without images.
            settings: how the final answer is decoded.
        """
        raise NotImplementedError

    @property
    def answer_version(self) -> int:
        """Version of the code that makes this defense's answers: part of every key under which they are kept."""
        return ANSWER_VERSION + self.answer_changes

    def needed(self) -> frozenset[Capability]:
        """What a backbone must be able to do at these settings."""
        return self.needs

    @property
    def needs_kv_cache(self) -> bool:
        """Whether the newest token of each decode step is edited: without a KV cache a step runs all tokens again."""
        return False

    def fit_prompts(self, fitted: ContrastSet) -> Sequence[Hashable]:
        """The prompts that go through the model once to fit a direction; equal ones can share a pass.

        Args:
            fitted: pairs of the contrast set that are not held out.
        """
        return ()

    def extra_passes(self) -> Sequence[Pass]:
        """The forward passes of an item besides its answer, at most; the fit of a direction left out."""
        return ()

    def direction_of(self, tools: Tools) -> SafetyDirection | None:
        """The safety direction that this defense uses, or None; fitted on first use."""
        return None

    @property
    def uses_contrast(self) -> bool:
        """Whether answers depend on the contrast set also where the direction comes from a file, beyond `fitted`."""
        return False

    @property
    def other_models(self) -> Sequence[str]:
        """Hub ids or folders of further models that answers need at these settings, which may not be here."""
        return ()

    @property
    def control(self) -> str:
        """Why this is a control and not a defense (its cells never rank); empty for defenses."""
        return ""

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """The settings with every default filled in for this backbone, JSON-ready: part of a cell's key."""
        return self.model_dump(mode="json")

    def fitted(self, tools: Tools) -> dict[str, Any]:
        """Settings that are found on the contrast set, JSON-ready: they take their places in `resolved`."""
        return {}


Defense = Settings
"""The interface of a defense."""
DirectionSource: TypeAlias = "Directions"
"""Older name of the type of `Tools.direction`."""


def steered(
    tools: Tools,
    requests: Sequence[Request],
    settings: GenerationSettings,
    *notes: str,
    edit: EditBuilder,
    scope: Scope = PREFILL,
) -> list[Answer]:
    """The backbone's answers with edited activations; see `Backbone.generate`."""
    generated = tools.backbone.generate(
        [request.chat for request in requests],
        settings,
        seeds=[request.seed for request in requests],
        edit=edit,
        scope=scope,
    )
    return [Answer.of(answer, *notes) for answer in generated]


def split_by_image(
    requests: Sequence[Request],
    *,
    with_image: Callable[[list[Request]], list[Answer]],
    without: Callable[[list[Request]], list[Answer]],
) -> list[Answer]:
    """Answer requests with and without images by different means, in the order they came."""
    return split(requests, [bool(request.chat.images) for request in requests], with_image, without)


def split(
    requests: Sequence[Request],
    chosen: Sequence[bool],
    answer_chosen: Callable[[list[Request]], list[Answer]],
    answer_others: Callable[[list[Request]], list[Answer]],
) -> list[Answer]:
    """Answer the chosen requests and the others by different means, in the order they came."""
    parts = {
        which: [request for request, one in zip(requests, chosen, strict=True) if one is which]
        for which in (True, False)
    }
    answers = {
        which: iter(answer(parts[which]) if parts[which] else [])
        for which, answer in ((True, answer_chosen), (False, answer_others))
    }
    return [next(answers[one]) for one in chosen]
