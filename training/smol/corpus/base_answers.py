"""What the base model says itself: new benign things to do, and its own answers to benign requests."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import torch

from training.smol.corpus import phrases as words
from training.smol.corpus.cleaning import names_a_task, sentences, three_points
from training.smol.corpus.corpus import Topic
from training.smol.corpus.phrases import Phrase
from training.smol.corpus.requests import ASK_HOW, ASK_LIST, ASK_QUESTION

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""The system message of the base's own chat template."""
BEGINNINGS = (
    "How do I ",
    "How can I ",
    "What is the best way to ",
    "How to ",
    "Can you explain how to ",
    "Give me tips to ",
    "What are good ways to ",
    "How can a beginner ",
    "How do students ",
    "How do people at work ",
    "How can a doctor ",
    "How can an investor ",
    "How do patients ",
    "How can a tenant ",
    "How can a family ",
    "How do scientists ",
    "How does an artist ",
    "How do athletes ",
    "How can a company ",
    "How do citizens ",
    "How does a lawyer ",
)
REPETITION_PENALTY = 1.15
"""Keeps the base's greedy answers out of loops."""
NEW_TOKENS = 112


def _prompt(request: str) -> str:
    return f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{request}"


@torch.inference_mode()
def _continue(model: Any, tokenizer: Any, prompts: Sequence[str], batch: int, **settings: Any) -> list[str]:
    """Continuations of prompts, in their order; the longest prompts go first so that memory is known at once."""
    found = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        inputs = tokenizer([prompts[i] for i in rows], return_tensors="pt", padding=True).to(model.device)
        out = model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
        for i, text in zip(rows, tokenizer.batch_decode(out, skip_special_tokens=True), strict=True):
            found[i] = text
    return found


def made_phrases(model: Any, tokenizer: Any, count: int, batch: int, rng: random.Random) -> list[Phrase]:
    """Things to do that the base model thinks of, without those that could be harmful.

    Args:
        model: the base, on its device.
        tokenizer: from `build_tokenizer`.
        count: how many questions it begins; fewer phrases come out.
        batch: questions at a time.
        rng: picks the beginnings.
    """
    beginnings = [rng.choice(BEGINNINGS) for _ in range(count)]
    said = _continue(
        model,
        tokenizer,
        [_prompt(b).rstrip(" ") for b in beginnings],
        batch,
        max_new_tokens=14,
        do_sample=True,
        temperature=1.0,
        top_p=0.95,
        top_k=0,
    )
    found: dict[str, None] = {}
    for text in said:
        match = re.match(r"^\s*([a-z][a-zA-Z ,'-]{6,60}?)\s*[?.\n]", text)
        if match is None:
            continue
        phrase = re.sub(r"\bmy\b", "your", match[1].strip(" ,"))
        count_words = len(phrase.split())
        if (
            2 <= count_words <= 9
            and names_a_task(phrase)
            and not words.suspect(phrase)
            and not re.search(r"\b(I|me|this|these|it)\b", phrase)
        ):
            found[phrase] = None
    return [Phrase(text, False, "made") for text in found]


def answered(
    model: Any,
    tokenizer: Any,
    phrases: Sequence[Phrase],
    questions: Sequence[str],
    batch: int,
    rng: random.Random,
) -> tuple[list[Topic], list[tuple[str, str]]]:
    """Phrases with the base's answers under a heading and to a question, and whole questions with theirs.

    Those whose answers repeat themselves, decline or are no list of three points are left out.
    """
    asked = [ASK_LIST.format(words.heading(p, p.text, rng)) for p in phrases]
    asked += [ASK_HOW.format(words.question(p, p.text, rng)) for p in phrases]
    asked += [ASK_QUESTION.format(q) for q in questions]
    said = _continue(
        model,
        tokenizer,
        [f"{_prompt(a)}<|im_end|>\n<|im_start|>assistant\n" for a in asked],
        batch,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        repetition_penalty=REPETITION_PENALTY,
    )
    n = len(phrases)
    topics = []
    for phrase, points, how in zip(phrases, said[:n], said[n : 2 * n], strict=True):
        listed, told = three_points(points), sentences(how)
        if listed and told:
            topics.append(Topic(phrase, listed, told))
    kept = []
    for question, answer in zip(questions, said[2 * n :], strict=True):
        told = sentences(answer)
        if told:
            kept.append((question, told))
    return topics, kept
