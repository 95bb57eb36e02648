"""Stage 0: the corpus. What the base model says itself, or what it said in earlier runs and what that lacks."""

from __future__ import annotations

import copy
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from training.smol.corpus import phrases
from training.smol.corpus.base_answers import answered, made_phrases
from training.smol.corpus.phrases import Phrase
from training.smol.corpus.stored import Stored, checked, cleaned, joined
from training.smol.corpus.word_salad import read_words, several_tokens, vocabulary
from training.smol.training.recipe import Recipe

logger = logging.getLogger(__name__)


def gather(
    recipe: Recipe,
    seed: int,
    base: Any,
    tokenizer: Any,
    *,
    device: str,
    batch: int,
    earlier: Stored | None = None,
    requests: Sequence[str] = (),
    words: Path | None = None,
    data: Path | None = None,
) -> Stored:
    """The corpus of a run.

    Args:
        recipe: how many phrases.
        seed: of the draws.
        base: the base model; it stays as it is.
        tokenizer: from `build_tokenizer`.
        device: where the base shall answer.
        batch: requests that it answers at a time.
        earlier: a stored corpus; the base then makes no phrases, and answers only what is not in there.
        requests: more harmful requests, as whole sentences.
        words: a word list; its words of several tokens enter the word salad.
        data: folder of the evaluation sets for the overlap check; None skips it, which the corpus says.

    Raises:
        DataError: the word list or the evaluation sets cannot be read.
    """
    started, rng = time.monotonic(), random.Random(seed)
    torch.manual_seed(seed)
    speaker = _speaker(base, device)
    asked, questions = _own(recipe, rng, earlier)
    if earlier is None:
        asked += made_phrases(speaker, tokenizer, recipe.made_phrases, batch, rng)
    asked = [p for p in asked if not phrases.held_out(p.text)]
    topics, told = answered(speaker, tokenizer, asked, questions, batch, rng)
    logger.info(
        "corpus: %d phrases and %d questions asked, %d and %d kept, %.0f s",
        *(len(asked), len(questions), len(topics), len(told), time.monotonic() - started),
    )
    rare = several_tokens(read_words(words), tokenizer) if words else []
    new = Stored(topics, told, list(requests), vocabulary(tokenizer), rare)
    found = cleaned(new if earlier is None else joined([new, earlier]))
    if data is not None:
        found, report = checked(found, data)
        logger.info("%s", report)
    logger.info("corpus: %s, %.0f s", found.counts, time.monotonic() - started)
    return found


def _own(recipe: Recipe, rng: random.Random, earlier: Stored | None) -> tuple[list[Phrase], list[str]]:
    """Our own benign phrases and questions that are to be asked, in a random order."""
    known = {t.text for t in earlier.topics} if earlier else set()
    own = [
        p
        for p in (*phrases.phrases(), *phrases.things())
        if not p.harmful and p.text not in known and not phrases.held_out(p.text)
    ]
    if earlier is None:
        own += [
            replace(p, text=f"{p.text} {tail}")
            for p in own
            if p.kind == "benign"
            for tail in rng.sample(phrases.tails(harmful=False), 2)
        ]
    told = {q for q, _ in earlier.questions} if earlier else set()
    questions = [q for q in phrases.whole_questions() if q not in told]
    rng.shuffle(own)
    rng.shuffle(questions)
    return own[: recipe.own_phrases], questions[: max(20, recipe.own_phrases)]


def _speaker(base: Any, device: str) -> Any:
    """A copy of the base that answers, in 16 bit: its answers are to be learned from, and cost half the time."""
    speaker = copy.deepcopy(base).to(device, torch.bfloat16).eval()
    # a cast rounds the rotary frequencies too; they must stay as they are
    speaker.model.rotary_emb.inv_freq = base.model.rotary_emb.inv_freq.to(device)
    return speaker
