"""Generation settings, and sampling that does not depend on the batch.

Decoding is transformers' own `generate`. Sampling is done by adding seeded Gumbel noise to the
processed logits and taking the maximum, which draws from exactly the same distribution; each row has
a generator of its own, so a sampled answer is the same in any batch and after a resume.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from shiftdc_eval.core.errors import ConfigError, ItemError


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class GenerationSettings:
    """How an answer is decoded; greedy by default."""

    max_new_tokens: int = 512
    """Upper bound on answer tokens."""
    do_sample: bool = False
    """False: greedy."""
    temperature: float = 1.0
    """Sampling temperature, > 0."""
    top_p: float = 1.0
    """Nucleus mass kept when sampling, in (0, 1]."""
    top_k: int = 0
    """Number of tokens kept when sampling; 0 keeps all."""
    until: tuple[str, ...] = ()
    """The answer is cut before the first of these strings."""
    use_cache: bool = True
    """Decode with a KV cache."""
    stop_after: str = ""
    """The answer ends with the first token whose text ends in this, which stays: `.` for one sentence. Empty: none."""

    def __post_init__(self) -> None:
        until: object = self.until
        if isinstance(until, str):  # one stop string; its letters are none
            until = (until,)
        checks = {
            "max_new_tokens": _whole(self.max_new_tokens) and self.max_new_tokens >= 1,
            "do_sample": isinstance(self.do_sample, bool),
            "temperature": _finite(self.temperature) and (self.temperature > 0 or not self.do_sample),
            "top_p": _finite(self.top_p) and 0 < self.top_p <= 1,
            "top_k": _whole(self.top_k) and self.top_k >= 0,
            "until": isinstance(until, tuple | list) and all(isinstance(stop, str) for stop in until),
            "use_cache": isinstance(self.use_cache, bool),
            "stop_after": isinstance(self.stop_after, str),
        }
        for name, fine in checks.items():
            if not fine:
                raise ConfigError(
                    f"generation setting {name}={getattr(self, name)!r} is out of range or of the wrong type"
                )
        assert isinstance(until, tuple | list)
        object.__setattr__(self, "until", tuple(until))

    def key(self) -> dict[str, Any]:
        """The settings that can change an answer, JSON-ready."""
        fields = asdict(self)
        if not self.do_sample:
            for name in ("temperature", "top_p", "top_k"):
                del fields[name]
        for name in ("use_cache", *(() if self.stop_after else ("stop_after",))):
            del fields[name]
        return {**fields, "until": list(self.until)}

    def at_most(self, max_new_tokens: int | None) -> GenerationSettings:
        """The same settings, with the answer no longer than this."""
        if max_new_tokens is None:
            return self
        return replace(self, max_new_tokens=min(self.max_new_tokens, max_new_tokens))

    def with_limit(self, max_new_tokens: int) -> GenerationSettings:
        """Greedy settings with another length limit and no stop strings (captions, self-checks)."""
        return GenerationSettings(max_new_tokens=max_new_tokens, use_cache=self.use_cache)


@dataclass(frozen=True)
class Generated:
    """One decoded answer."""

    text: str
    """Answer without special tokens, cut at the first stop string."""
    tokens_in: int
    """Prompt tokens, image tokens included, padding excluded."""
    tokens_out: int
    """Answer tokens, the end token included."""
    ids: tuple[int, ...]
    """Answer token ids, the end token included."""
    ended: bool = False
    """Whether it is whole: an end token or a stop string came, and not a limit or the end of a sentence alone. False
    for an answer from a store."""


NEUTRAL: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
    "min_length": 0,
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "sequence_bias": None,
    "exponential_decay_length_penalty": None,
    "stop_strings": None,
}
"""Settings of a model's generation configuration that change greedy answers, with the values that change nothing."""


def penalties(generation_config: Any) -> dict[str, Any]:
    """The settings of a model's generation configuration that change its greedy answers."""
    found = {name: getattr(generation_config, name, None) for name in NEUTRAL}
    return {name: value for name, value in found.items() if value is not None and value != NEUTRAL[name]}


def not_finite(name: str, dtype: torch.dtype) -> ItemError:
    """What is raised where the logits of a request hold NaN or infinity: any token chosen from them means nothing."""
    wider = "load the model with dtype=bfloat16 or dtype=float32"
    remedy = wider if dtype == torch.float16 else "weights that are not finite do this: fetch them again"
    said = f"the logits of {name} are not finite in {str(dtype).removeprefix('torch.')}; {remedy}"
    return ItemError("no number: its logits are not finite", f"no number: {said}")


class FiniteLogits(LogitsProcessor):  # type: ignore[misc]
    """Ends generation where the logits of a row hold NaN or infinity: any token chosen from them means nothing.

    Args:
        name: of the model, for the error.
        dtype: its compute dtype, for the error.
        ends: ids that end an answer; what follows them is padding and does not count.
        width: padded length of the prompts.
    """

    def __init__(self, name: str, dtype: torch.dtype, ends: Iterable[int | None], width: int) -> None:
        self._error = not_finite(name, dtype)
        self._ends, self._width = [end for end in ends if end is not None], width

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        wrong = ~scores.amax(-1).isfinite()  # NaN wins, and tokens that are ruled out are at -inf
        if wrong.any():
            ends = torch.tensor(self._ends, device=input_ids.device, dtype=input_ids.dtype)
            wrong &= ~torch.isin(input_ids[:, self._width :], ends).any(-1)
            if wrong.any():
                raise self._error
        return scores


class GumbelNoise(LogitsProcessor):  # type: ignore[misc]
    """Turns greedy decoding into sampling: argmax of logits plus Gumbel noise, one generator per row."""

    def __init__(self, seeds: Sequence[str]) -> None:
        self._generators = [
            torch.Generator().manual_seed(
                int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") >> 1
            )
            for seed in seeds
        ]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=one) for one in self._generators])
        noise = -torch.log(-torch.log(uniform.clamp(1e-30, 1 - 1e-7)))
        return scores.float() + noise.to(scores.device)


def sampling_processors(settings: GenerationSettings, seeds: Sequence[str]) -> LogitsProcessorList:
    """Logits processors that sample as the settings say; empty for greedy decoding."""
    processors = LogitsProcessorList()
    if settings.do_sample:
        if settings.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k:
            processors.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1.0:
            processors.append(TopPLogitsWarper(settings.top_p))
        processors.append(GumbelNoise(seeds))
    return processors


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first stop string."""
    ends = [index for stop in until if stop and (index := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
