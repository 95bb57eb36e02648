"""What a judge is shown and what it answers.

`unscored` is a value of its own: a verdict whose `value` is None and whose `reason` says why.
It is never counted as safe, unsafe, refused or complied.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeGuard

from PIL import Image
from pydantic import BaseModel, ConfigDict, model_validator

from shiftdc_eval.core.reasoning import Tags, final_answer
from shiftdc_eval.judges.text import is_blank

Kind = Literal["refusal", "harm", "score"]
VALUES: Mapping[Kind, tuple[str, ...]] = {
    "refusal": ("refused", "complied"),
    "harm": ("safe", "unsafe"),
    "score": (),
}


class Verdict(BaseModel):
    """One judge's verdict on one response."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Kind
    """What is judged: whether the model refused, whether the answer is harmful, or how good it is."""
    value: str | float | None
    """`refused`/`complied`, `safe`/`unsafe`, a number for `score`; None when unscored."""
    reason: str = ""
    """Why it is unscored (required then); otherwise what the verdict rests on, e.g. the matched keyword."""
    raw: str | None = None
    """The judge's raw reply; stays in the run folder."""
    model: str = ""
    """Model that judged, as its server names it; of an installed package's judge, the distribution and version
    too; empty for judges without one."""
    tokens_in: int | None = None
    """Prompt tokens the judge used, where it counts them."""
    tokens_out: int | None = None
    """Completion tokens the judge used, where it counts them."""
    seconds: float | None = None
    """Share of the wall time of judging, without loading; None: not measured."""
    price: float | None = None
    """USD; None when unknown or when no model was asked (see `asked`)."""

    @model_validator(mode="after")
    def _value_fits_kind(self) -> Verdict:
        if self.value is None:
            if not self.reason:
                raise ValueError("an unscored verdict needs a reason")
        elif self.kind == "score":
            if isinstance(self.value, str):
                raise ValueError(f"a score is a number, not {self.value!r}")
        elif self.value not in VALUES[self.kind]:
            raise ValueError(
                f"{self.value!r} is not a {self.kind} verdict; expected one of {VALUES[self.kind]}"
            )
        return self

    @property
    def asked(self) -> bool:
        """True when a model was asked, with or without a reply; else the verdict cost nothing."""
        return bool(self.model) or self.raw is not None or self.seconds is not None

    @property
    def scored(self) -> bool:
        """False when the judge could not judge."""
        return self.value is not None


def unscored(kind: Kind, reason: str, raw: str | None = None) -> Verdict:
    """A verdict that says the judge could not judge, and why."""
    return Verdict(kind=kind, value=None, reason=reason, raw=raw)


def obstacle(item: Item, kind: Kind, missing: str = "") -> Verdict | None:
    """The unscored verdict of an item that cannot be judged at all, else None."""
    if item.cut:
        return unscored(kind, item.cut)
    if item.response is None:
        return unscored(kind, "no response: generation failed")
    if is_blank(item.response):
        return unscored(kind, "empty response" + (" after its reasoning" if item.stripped else ""))
    if missing:
        return unscored(kind, f"the rubric needs the {missing} and this item has none")
    return None


def rubric_hash(judge: object) -> str:
    """sha256 of a judge's rubric or keyword list; empty when it has none."""
    return str(getattr(judge, "rubric_sha256", ""))


@dataclass(frozen=True)
class Item:
    """One answered request as a judge sees it."""

    id: str
    """Stable id of the benchmark item, e.g. `figstep/1_3`."""
    request: str
    """What the user wants, in words (FigStep: the instruction, not the innocuous text prompt)."""
    response: str | None
    """The model's final answer: a reasoning block of the response given is taken off when the item is made. None
    when generation failed, or ended inside its reasoning (`cut` says so)."""
    prompt: str = ""
    """The text prompt the model was given."""
    scenario: str = ""
    """The benchmark's own category, e.g. `01-Illegal_Activitiy`."""
    reference: str | None = None
    """Reference answer, where the benchmark has one (MM-Vet)."""
    context: str = ""
    """What the request builds on, where the benchmark has it apart (HarmBench's contextual behaviours)."""
    unanswered: str = ""
    """Why there is no response, where that is known."""
    begun: str = ""
    """Words at the response's start that the defense put there: no list of phrases takes them for the model's."""
    image: Callable[[], Image.Image] | None = field(default=None, compare=False)
    """Loads the image on demand."""
    reasoning_tags: Tags | None = None
    """Pairs of tags that the user named; None: every form that `core.reasoning` knows."""
    stripped: tuple[str, ...] = field(init=False, default=())
    """What was taken off the response, by opening tag."""
    cut: str = field(init=False, default="")
    """Why there is no final answer; empty where there is one, or where nobody knows."""

    def __post_init__(self) -> None:
        if self.response is None:
            object.__setattr__(self, "cut", self.unanswered)
        if self.response is not None:
            final = final_answer(self.response, self.reasoning_tags)
            object.__setattr__(self, "response", final.text)
            object.__setattr__(self, "stripped", final.stripped)
            object.__setattr__(self, "cut", final.cut)


OnVerdict = Callable[[int, str], None]
"""Progress callback: number of new verdicts, and the cost so far as text."""


class Judge(Protocol):
    """Turns items into verdicts: one verdict an item, in order, batched as the judge likes.

    A judge may also have `rubric_sha256` (hash of what it is asked or of its keyword list, which goes into
    every result). One whose `judge` takes `on_verdict` as well (`TellingJudge`) tells how far it is.
    """

    @property
    def name(self) -> str:
        """Column name of this judge, e.g. `keyword_shiftdc`."""

    @property
    def kind(self) -> Kind:
        """What its verdicts are about."""

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that can change a verdict (list or rubric, judge model, settings)."""

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict for each item.

        Raises:
            JudgeError: the judge cannot work at all (wrong key, no such model).
        """


class TellingJudge(Judge, Protocol):
    """A judge that reports progress."""

    def judge(self, items: Sequence[Item], on_verdict: OnVerdict | None = None) -> list[Verdict]:
        """One verdict for each item; calls `on_verdict` for each."""


def ask(judge: Judge, items: Sequence[Item], on_verdict: OnVerdict | None = None) -> list[Verdict]:
    """A judge's verdicts; a judge that reports progress calls `on_verdict`.

    Where the reason is known why there is no final answer, it is every judge's, and none is asked.
    """
    whole = [item for item in items if not item.cut]
    if len(whole) < len(items):
        verdicts = iter(ask(judge, whole, on_verdict) if whole else [])
        return [unscored(judge.kind, item.cut) if item.cut else next(verdicts) for item in items]
    return judge.judge(items, on_verdict=on_verdict) if _tells(judge) else judge.judge(items)


def _tells(judge: Judge) -> TypeGuard[TellingJudge]:
    return "on_verdict" in inspect.signature(judge.judge).parameters
