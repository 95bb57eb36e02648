"""Judges that run on this machine: a rubric put to a causal language model, greedily and in batches.

HarmBench's classifier answers with one token, yes or no; Llama Guard and MD-Judge with a label on the
first line. Load one after the evaluated model has been freed: the judge loads its model for one call of
`judge` and frees it again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from shiftdc_eval.core.hashing import text_sha256
from shiftdc_eval.judges.cache import VerdictCache
from shiftdc_eval.judges.delimit import guard_version
from shiftdc_eval.judges.local.model import LocalModel
from shiftdc_eval.judges.local.prompt import Encoder, left_padded
from shiftdc_eval.judges.parsing import PARSERS
from shiftdc_eval.judges.rubric import Rubric
from shiftdc_eval.judges.text import is_blank
from shiftdc_eval.judges.verdict import Item, Kind, Verdict, unscored

OnVerdict = Callable[[int, str], None]


@dataclass
class LocalJudge:
    """Judges by rubric and local causal language model."""

    name: str
    rubric: Rubric
    model: LocalModel
    guarded: bool = False
    chat: bool = False
    """Wrap the prompt in the tokenizer's chat template (for models that are not made for one prompt)."""
    on_verdict: OnVerdict | None = field(default=None, repr=False)

    @property
    def kind(self) -> Kind:
        """What its verdicts are about."""
        return self.rubric.kind

    @property
    def rubric_sha256(self) -> str:
        """Hash of the rubric, whatever the model and its settings."""
        return self.rubric.sha256

    @property
    def fingerprint(self) -> str:
        """sha256 of rubric, guard, model identity, dtype and cutting; not of the batch size."""
        what = {
            "rubric": self.rubric.fingerprint_data(),
            "guard": guard_version() if self.guarded else None,
            "model": self.model.identity,
            "dtype": self.model.resolved_dtype,
            "max_length": self.model.max_length,
            "chat": self.chat,
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order.

        Raises:
            JudgeError: the model cannot be loaded or run.
        """
        fingerprint = self.fingerprint
        verdicts: list[Verdict | None] = [self._obstacle(item) for item in items]
        with VerdictCache() as cache:
            keys = [self._key(fingerprint, item) for item in items]
            for place, key in enumerate(keys):
                verdicts[place] = verdicts[place] or cache.get(key)
            todo = [place for place, verdict in enumerate(verdicts) if verdict is None]
            report_to(self.on_verdict, len(items) - len(todo), "from cache")
            if todo:
                for place, verdict in zip(todo, self._work([items[place] for place in todo]), strict=True):
                    cache.put(keys[place], self.name, verdict)
                    verdicts[place] = verdict
        return [verdict for verdict in verdicts if verdict is not None]

    def _obstacle(self, item: Item) -> Verdict | None:
        return obstacle(item, self.kind, self.rubric.missing(item))

    def _key(self, fingerprint: str, item: Item) -> str:
        messages = self.rubric.messages(item, self.guarded, nonce="0" * 16)
        return text_sha256(json.dumps([fingerprint, messages]))

    def _work(self, items: Sequence[Item]) -> Iterator[Verdict]:
        import torch

        with self.model.loaded("AutoModelForCausalLM", side="left") as (model, tokenizer):
            room = self.model.room(model, tokenizer, self.rubric.max_tokens)
            encoder = Encoder(self.rubric, tokenizer, self.guarded, self.chat, room)

            def run(batch: Sequence[Item]) -> list[Verdict]:
                begun = time.perf_counter()
                prompts = [encoder.prompt(item) for item in batch]
                verdicts = [unscored(self.kind, prompt.obstacle or "not judged") for prompt in prompts]
                places = [place for place, prompt in enumerate(prompts) if not prompt.obstacle]
                if not places:
                    return verdicts
                ids, mask = left_padded([prompts[place].ids for place in places], tokenizer.pad_token_id)
                with torch.inference_mode():
                    output = model.generate(
                        input_ids=ids.to(model.device),
                        attention_mask=mask.to(model.device),
                        do_sample=False,
                        max_new_tokens=self.rubric.max_tokens,
                        **GREEDY,
                    )
                new = output[:, ids.shape[1] :]
                replies = tokenizer.batch_decode(new, skip_special_tokens=True)
                seconds = round((time.perf_counter() - begun) / len(places), 6)
                for place, row, reply in zip(places, new.tolist(), replies, strict=True):
                    prompt = prompts[place]
                    took = {
                        "tokens_in": len(prompt.ids),
                        "tokens_out": _length(row, model.generation_config.eos_token_id),
                        "seconds": seconds,
                    }
                    verdicts[place] = self._read(reply, cut=prompt.cut).model_copy(update=took)
                return verdicts

            done = 0
            for results in self.model.in_batches(items, run):
                yield from results
                done += len(results)
                report_to(self.on_verdict, len(results), f"{done} judged by {self.model.name}")

    def _read(self, reply: str, *, cut: bool) -> Verdict:
        parsed = PARSERS[(self.guarded and self.rubric.guarded_parser) or self.rubric.parser](
            reply, self.rubric
        )
        notes = [parsed.reason, "the prompt was cut on the left" if cut else ""]
        reason = "; ".join(filter(None, notes))
        if parsed.value is None:
            reason = reason or "the reply cannot be read"
        return Verdict(
            kind=self.kind,
            value=parsed.value,
            reason=reason,
            raw=reply,
            model=self.model.name,
        )


GREEDY: dict[str, Any] = {"temperature": None, "top_p": None, "top_k": None}
"""Sampling settings a checkpoint may bring along, taken back."""


def _length(row: Sequence[int], eos: int | Sequence[int] | None) -> int:
    """Tokens of a reply up to its end, without what only fills up its row of the batch."""
    ends = {eos} if isinstance(eos, int) else set(eos or ())
    return next((number for number, token in enumerate(row, 1) if token in ends), len(row))


def obstacle(item: Item, kind: Kind, missing: str = "") -> Verdict | None:
    """The unscored verdict of an item that cannot be judged at all, else None."""
    if item.response is None:
        return unscored(kind, "no response: generation failed")
    if is_blank(item.response):
        return unscored(kind, "empty response")
    if missing:
        return unscored(kind, f"the rubric needs the {missing} and this item has none")
    return None


def report_to(on_verdict: OnVerdict | None, done: int, account: str) -> None:
    """Tell of verdicts just given, if anyone listens."""
    if on_verdict is not None and done:
        on_verdict(done, account)
