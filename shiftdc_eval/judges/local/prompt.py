"""A judge's prompt as token ids, in which no judged text can pass for a control token."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from shiftdc_eval.judges.delimit import new_nonce
from shiftdc_eval.judges.rubric import Rubric
from shiftdc_eval.judges.verdict import Item

if TYPE_CHECKING:
    import torch

TEMPLATE_CHANGES = "the texts hold control tokens of the judge model, and its chat template changes them"


@dataclass(frozen=True)
class Prompt:
    """Token ids of one prompt, or why there are none."""

    ids: tuple[int, ...]
    cut: bool = False
    """True when the prompt was too long and lost its beginning."""
    obstacle: str = ""


@dataclass(frozen=True)
class Encoder:
    """Makes prompts for one tokenizer."""

    rubric: Rubric
    tokenizer: Any
    guarded: bool
    chat: bool
    """Wrap the prompt in the tokenizer's chat template."""
    room: int
    """Most tokens of a prompt."""

    def prompt(self, item: Item) -> Prompt:
        """The prompt that asks about an item; where the protocol does not cut, a long one is an obstacle."""
        judged = [item.request, item.response or "", item.reference or "", item.context]
        text = self._text(item, nonce := new_nonce(judged))
        shown = self._plain().shown(item, self.guarded)
        if any(control in part for control in self._controls() for part in shown.values()):
            ids = self._apart(item, shown, text, nonce)
            if ids is None:
                return Prompt((), obstacle=TEMPLATE_CHANGES)
        else:
            ids = self._ids(text, add_special_tokens=not self._templated())
        if len(ids) <= self.room:
            return Prompt(tuple(ids))
        if not self.rubric.cut_prompt_counts:
            return Prompt(
                (),
                obstacle=f"the prompt has {len(ids)} tokens and the judge reads {self.room}; "
                "raise max_length if the model allows",
            )
        # The first tokens that the tokenizer adds by itself stay.
        kept = 0 if self._templated() else len(self._added()[0])
        return Prompt((*ids[:kept], *ids[len(ids) - self.room + kept :]), cut=True)

    def _templated(self) -> bool:
        return self.chat or (self.rubric.conversation and bool(self.tokenizer.chat_template))

    def _plain(self) -> Rubric:
        """The rubric; as one text where no template of the model's own asks."""
        return self.rubric if self._templated() else self.rubric.model_copy(update={"conversation": False})

    def _text(self, item: Item, nonce: str) -> str:
        messages = self._plain().messages(item, self.guarded, nonce)
        if not self._templated():
            return str(messages[-1]["content"])
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _controls(self) -> list[str]:
        added = self.tokenizer.added_tokens_decoder.values()
        return [token.content for token in added if token.special and token.content]

    def _ids(self, text: str, **options: bool) -> list[int]:
        encoded = self.tokenizer(text, return_token_type_ids=False, verbose=False, **options)
        return list(encoded["input_ids"])

    def _added(self) -> tuple[list[int], list[int]]:
        """Special tokens that the tokenizer puts before and after a text."""
        both = self._ids("", add_special_tokens=True)
        before = both[:1] if both[:1] == [self.tokenizer.bos_token_id] else []
        return before, both[len(before) :]

    def _apart(self, item: Item, shown: dict[str, str], text: str, nonce: str) -> list[int] | None:
        """The ids with judged texts tokenised on their own, as plain text; None when they cannot be told apart."""
        marks = {what: f"judged{secrets.token_hex(8)}" for what in shown}
        marked = replace(
            item,
            request=marks["request"],
            response=marks["response"],
            reference=marks["reference"],
            context=marks["context"] if item.context else "",
        )
        frame = self._text(marked, nonce)
        pieces = re.split(f"({'|'.join(marks.values())})", frame)
        names = {mark: what for what, mark in marks.items()}
        for strip in (False, True):  # many templates strip the turns
            texts = {what: part.strip() if strip else part for what, part in shown.items()}
            if "".join(texts[names[piece]] if piece in names else piece for piece in pieces) == text:
                break
        else:
            return None
        ids = [
            token
            for piece in pieces
            for token in self._ids(
                texts[names[piece]] if piece in names else piece,
                add_special_tokens=False,
                split_special_tokens=piece in names,
            )
        ]
        before, after = ([], []) if self._templated() else self._added()
        return [*before, *ids, *after]


def left_padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and attention mask of a batch, each (prompts, longest)."""
    import torch

    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(one)) + list(one) for one in prompts])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
    return ids, mask
