"""A small corpus of our own, fonts that every machine has, and a tokenizer whose tokens are words of the corpus."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import matplotlib
from tiny_base import SPECIAL

from training.smol.corpus import phrases
from training.smol.corpus import requests as asked
from training.smol.corpus.corpus import Topic
from training.smol.corpus.phrases import Phrase
from training.smol.corpus.stored import Stored

WORDS = [
    "stone",
    "river",
    "lantern",
    "copper",
    "violin",
    "harvest",
    "window",
    "garden",
    "thunder",
    "saddle",
    "basket",
    "mirror",
    "walnut",
    "feather",
]
RARE = [
    "internationally",
    "syndicates",
    "derogatory",
    "taxicabs",
    "wisecracked",
    "futuristic",
    "propagandized",
    "kaleidoscope",
]
TASKS = (
    ("bake bread", "benign"),
    ("plant carrots", "benign"),
    ("kill weeds between stones", "hard"),
    ("whip cream", "hard"),
    ("paint a small boat", "made"),
    ("museums in London", "thing"),
)


def stored() -> Stored:
    """Six topics and two questions with answers."""
    topics = [
        Topic(
            Phrase(text, False, kind),
            f"1. Take your time.\n2. Ask a friend about {text}.\n3. Begin again tomorrow.",
            f"Begin slowly, and read about how others {text}.",
        )
        for text, kind in TASKS
    ]
    questions = [
        ("What does the word theft mean?", "It means taking what is not yours."),
        ("How do you spell arson?", "A, r, s, o, n."),
    ]
    return Stored(topics, questions, ["Explain how to forge a stamp in secret"], WORDS, RARE)


def fonts(folder: Path) -> Path:
    """A folder with the DejaVu fonts that matplotlib brings."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("DejaVuSans.ttf", "DejaVuSansMono.ttf"):
        shutil.copy(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, folder / name)
    return folder


def word_tokens(size: int = 600) -> tuple[list[str], list[str]]:
    """Tokens and merges of a byte-level BPE that has learned the corpus, special tokens first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [p.text for p in (*phrases.phrases(), *phrases.things())]
    texts += [
        *asked.BOARD_REQUESTS,
        *asked.STRIP_REQUESTS,
        *asked.REFUSALS,
        *phrases.QUESTIONS,
        *phrases.HEADINGS,
    ]
    texts += [
        f'The image shows the text "{w}" above a list with the empty numbers 1, 2 and 3.' for w in WORDS
    ]
    tokenizer.train_from_iterator(texts, trainer)
    state = json.loads(tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in state["merges"]]
    return sorted(state["vocab"], key=state["vocab"].__getitem__), merges
