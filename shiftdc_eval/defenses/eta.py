"""ETA: evaluate, then align (arXiv 2410.06625; DripNowhy/ETA 3580833).

What `eta_prefix` finds unsafe is written again from the prefix on, a sentence at a time: of several sampled sentences
the one that reward model and CLIP like best is kept ("deep alignment").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from shiftdc_eval.backbones import Backbone, Chat, Generated, GenerationSettings
from shiftdc_eval.backbones.generation import cut
from shiftdc_eval.backbones.interface import Capability
from shiftdc_eval.defenses.base import BEGUN, Answer, Request, Tools
from shiftdc_eval.defenses.eta_prefix import EtaPrefix
from shiftdc_eval.defenses.passes import Pass
from shiftdc_eval.defenses.prompts import prompt

SENTENCE_TOKENS = 70
"""Most tokens of a sentence."""
SENTENCE_END = "."


@dataclass
class Draft:
    """An answer that grows by sentences."""

    request: Request
    text: str
    """The prefix and the sentences so far."""
    sentences: int = 0
    tokens_in: int = 0
    """Of the first sentence's prompt."""
    tokens_out: int = 0
    sampled: int = 0
    """Tokens of all candidates."""
    ended: bool = False

    @property
    def chat(self) -> Chat:
        """What the next sentence is asked with."""
        return self.request.chat.with_answer_begun(self.text)

    def extend(self, candidates: Sequence[Generated], scores: Sequence[float]) -> None:
        """Go on with the first of the best candidates."""
        best = candidates[scores.index(max(scores))]
        self.tokens_in = self.tokens_in or best.tokens_in
        self.text, self.ended = best.text, best.ended
        self.sentences += 1
        self.tokens_out += best.tokens_out
        self.sampled += sum(one.tokens_out for one in candidates)


class Eta(EtaPrefix):
    """Both evaluations, the prefix, and the best of several sentences."""

    name: ClassVar[str] = "eta"
    source: ClassVar[str] = "arXiv 2410.06625; DripNowhy/ETA 3580833"
    status = "code"
    extra_cost: ClassVar[str] = (
        "as eta_prefix; unsafe requests five candidates a sentence, each with reward and CLIP"
    )

    needs: ClassVar[frozenset[Capability]] = EtaPrefix.needs | {"stop_after"}

    when: Literal["both"] = "both"
    """ETA's own rule alone."""
    topk: int = Field(default=5, ge=1)
    """Candidates of a sentence, and tokens that each of their tokens is drawn from."""
    beta: float = Field(default=1.5, gt=0, allow_inf_nan=False)
    """Temperature."""

    def resolved(self, backbone: Backbone) -> dict[str, Any]:
        """All settings, and where a sentence ends."""
        ends = f"at a token that ends in {SENTENCE_END!r}, or after {SENTENCE_TOKENS} tokens"
        return {**super().resolved(backbone), "sentence_ends": ends}

    def extra_passes(self) -> list[Pass]:
        """The first answer and the candidates that are not kept."""
        return [*super().extra_passes(), *[Pass("answers")] * (self.topk - 1)]

    def aligned(
        self, tools: Tools, requests: Sequence[Request], settings: GenerationSettings
    ) -> list[Answer]:
        """Answers from the prefix on, sentence by sentence."""
        words = prompt("eta_prefix")
        drafts = [Draft(request, words) for request in requests]
        while growing := [d for d in drafts if not d.ended and d.tokens_out < settings.max_new_tokens]:
            for draft, candidates in self._candidates(tools.backbone, growing, settings):
                draft.extend(candidates, self._scores(draft, candidates))
        return [
            Answer(
                words + cut(draft.text.removeprefix(words), settings.until),
                draft.tokens_in,
                draft.tokens_out,
                extra={BEGUN: words, "sentences": draft.sentences, "sampled_tokens": draft.sampled},
            )
            for draft in drafts
        ]

    def _candidates(
        self, backbone: Backbone, drafts: Sequence[Draft], settings: GenerationSettings
    ) -> Iterator[tuple[Draft, list[Generated]]]:
        """Next sentences of each draft; those that may become equally long are sampled together."""
        rooms = [min(SENTENCE_TOKENS, settings.max_new_tokens - draft.tokens_out) for draft in drafts]
        for room in sorted(set(rooms)):
            some = [draft for draft, one in zip(drafts, rooms, strict=True) if one == room]
            asked = [(draft, number) for draft in some for number in range(self.topk)]
            sampling = GenerationSettings(
                max_new_tokens=room,
                do_sample=True,
                temperature=self.beta,
                top_k=self.topk,
                stop_after=SENTENCE_END,
                use_cache=settings.use_cache,
            )
            seeds = [f"{draft.request.seed}/{draft.sentences}/{number}" for draft, number in asked]
            found = backbone.generate([draft.chat for draft, _ in asked], sampling, seeds=seeds)
            for at, draft in enumerate(some):
                yield draft, found[at * self.topk : (at + 1) * self.topk]

    def _scores(self, draft: Draft, candidates: Sequence[Generated]) -> list[float]:
        """Reward of the answer so far; from the second sentence on, until a candidate ends, CLIP's cosine as well."""
        rewards = self._reward.scores(prompt("eta_generate"), [one.text.strip() for one in candidates])
        number = draft.sentences + 1
        if number == 1 or any(one.ended for one in candidates):
            return rewards
        said = [one.text[len(draft.text) :].strip() for one in candidates]
        shown = [self._clip.scores(image, said) for image in draft.request.chat.images]
        cosines = [max(column) for column in zip(*shown, strict=True)]  # the image that fits best
        return [reward + cosine / number for reward, cosine in zip(rewards, cosines, strict=True)]
