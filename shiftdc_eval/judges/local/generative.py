"""Judges that run on this machine: a rubric put to a causal language model, greedily and in batches.

HarmBench's classifier answers with one token, yes or no; Llama Guard and MD-Judge with a label on the
first line. Load one after the evaluated model has been freed: the judge loads its model for one call of
`judge` and frees it again.

It asks by token ids and a batch at a time, not by `ChatModel.ask`: only an encoder that knows which part of
a prompt is judged text can keep control tokens out of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shiftdc_eval.core.api.chat_model import Reply, Spent
from shiftdc_eval.core.hashing import digest, text_sha256
from shiftdc_eval.judges.cache import resumed
from shiftdc_eval.judges.local.model import LocalModel
from shiftdc_eval.judges.local.prompt import Encoder, left_padded
from shiftdc_eval.judges.question import RubricJudge
from shiftdc_eval.judges.verdict import Item, OnVerdict, Verdict, unscored


@dataclass
class LocalJudge(RubricJudge):
    """Judges by rubric and local causal language model."""

    model: LocalModel
    chat: bool = False
    """Wrap the prompt in the tokenizer's chat template (for models that are not made for one prompt)."""

    @property
    def fingerprint(self) -> str:
        """sha256 of rubric, guard, model identity, dtype and cutting; not of the batch size."""
        return digest({**self.question.identity(), **self.model.settings(), "chat": self.chat})

    def judge(self, items: Sequence[Item], on_verdict: OnVerdict | None = None) -> list[Verdict]:
        """One verdict an item, in order.

        Raises:
            JudgeError: the model cannot be loaded or run.
        """
        fingerprint = self.fingerprint
        return resumed(
            self.name,
            self.kind,
            self.model.name,
            [self.question.obstacle(item) for item in items],
            [text_sha256(json.dumps([fingerprint, self.question.content(item)])) for item in items],
            lambda places: self._work([items[place] for place in places]),
            on_verdict,
        )

    def _work(self, items: Sequence[Item]) -> Iterator[Verdict]:
        import torch

        rubric = self.rubric
        with self.model.loaded("AutoModelForCausalLM", side="left") as (model, tokenizer):
            new_tokens = rubric.max_tokens or UNLIMITED
            room = self.model.room(model, tokenizer, new_tokens)
            encoder = Encoder(rubric, tokenizer, self.question.guarded, self.chat, room)

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
                        max_new_tokens=new_tokens,
                        **GREEDY,
                    )
                new = output[:, ids.shape[1] :]
                texts = tokenizer.batch_decode(new, skip_special_tokens=True)
                seconds = round((time.perf_counter() - begun) / len(places), 6)
                for place, row, text in zip(places, new.tolist(), texts, strict=True):
                    prompt, replied = prompts[place], reply_length(row, model.generation_config.eos_token_id)
                    spent = Spent(1, len(prompt.ids), replied)
                    verdict = self.question.read(
                        Reply(text, self.model.name, spent, prompt.cut), batch[place]
                    )
                    took = {"tokens_in": spent.tokens_in, "tokens_out": replied, "seconds": seconds}
                    verdicts[place] = verdict.model_copy(update=took)
                return verdicts

            for results in self.model.in_batches(items, run):
                yield from results


UNLIMITED = 1024
"""Reply tokens of a rubric that sets no limit."""
GREEDY: dict[str, Any] = {"temperature": None, "top_p": None, "top_k": None}
"""Sampling settings a checkpoint may bring along, taken back."""


def reply_length(row: Sequence[int], eos: int | Sequence[int] | None) -> int:
    """Tokens of a reply up to its end, without what only fills up its row of the batch."""
    ends = {eos} if isinstance(eos, int) else set(eos or ())
    return next((number for number, token in enumerate(row, 1) if token in ends), len(row))
