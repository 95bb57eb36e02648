"""Training examples as tensors, drawn by worker processes while the model trains on what is there already."""

from __future__ import annotations

import multiprocessing
import queue
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from shiftdc_eval.backbones.bundled.smol_config import IMAGE_TOKEN, IMAGE_TOKENS, SIZE
from training.smol.corpus.corpus import Corpus, Example, caption
from training.smol.corpus.drawing import SIDE, SLOTS, Picture, draw
from training.smol.corpus.stored import Stored

NAMED = 24
"""Tokens of a picture's text whose places are known, at most."""
CHUNK = 500


@dataclass(frozen=True)
class Shape:
    """Sizes of one kind of rows, in tokens."""

    text: int
    """Tokens of prompt and answer, at most, without the images'."""
    answer: int
    images: int = 0

    @property
    def length(self) -> int:
        return self.text + self.images * IMAGE_TOKENS


SHAPES = {
    "caption": Shape(128, 48, images=1),
    "answer": Shape(192, 104, images=1),
    "pair": Shape(144, 104, images=2),
    "text": Shape(208, 104),
}
LABELLED = "caption"
"""The kind whose rows say which characters and tokens lie where."""


@dataclass
class Rows:
    """Rows of one kind. `n` rows, `L` tokens with the images', `A` answer tokens, `I` images a row."""

    ids: np.ndarray
    """`[n, L]` int32, padded on the right; the image token 256 times for each image."""
    positions: np.ndarray
    """`[n, A]` int16: place among the ids from which each answer token is predicted."""
    targets: np.ndarray
    """`[n, A]` int32, -100 past the answer's end."""
    pixels: np.ndarray
    """`[n, I, 256, 256]` uint8; no rows for text."""
    characters: np.ndarray
    """`[n, 256, 4]` uint8; like the following, for labelled rows alone."""
    token_places: np.ndarray
    """`[n, 24]` int16: patch in which a token of the text ends, -1 for none."""
    tokens: np.ndarray
    """`[n, 24]` int32."""


def prompt_text(example: Example) -> str:
    """The prompt as the chat template writes it, up to where the answer begins."""
    turns = [("system", example.system)] if example.system else []
    for user, assistant in example.earlier:
        turns += [("user", user), ("assistant", assistant)]
    turns.append(("user", f"{IMAGE_TOKEN}\n" * len(example.pictures) + example.prompt))
    said = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
    return f"{said}<|im_start|>assistant\n"


@cache
def _workshop(folder: str, fonts: str) -> tuple[Corpus, Any]:
    """Corpus and tokenizer of a worker process."""
    from transformers import AutoTokenizer

    return Stored.read(Path(folder) / "corpus.json").corpus(Path(fonts)), AutoTokenizer.from_pretrained(
        folder
    )


def examples(corpus: Corpus, kind: str, rng: random.Random) -> Iterator[Example]:
    """Endless examples of one kind of rows."""
    make = {
        "caption": corpus.caption_example,
        "answer": corpus.answer_example,
        "pair": corpus.pair_example,
        "text": corpus.text_example,
    }[kind]
    while True:
        yield make(rng)


def make_rows(folder: str, fonts: str, kind: str, seed: int, count: int) -> Rows:
    """One chunk of rows; examples that are too long are left out and replaced."""
    corpus, tokenizer = _workshop(folder, fonts)
    rng, shape = random.Random(seed), SHAPES[kind]
    labelled, image = count * (kind == LABELLED), tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    rows = Rows(
        ids=np.full((count, shape.length), tokenizer.pad_token_id, dtype=np.int32),
        positions=np.zeros((count, shape.answer), dtype=np.int16),
        targets=np.full((count, shape.answer), -100, dtype=np.int32),
        pixels=np.zeros((count * (shape.images > 0), shape.images, SIZE, SIZE), dtype=np.uint8),
        characters=np.zeros((labelled, SIDE * SIDE, SLOTS), dtype=np.uint8),
        token_places=np.full((labelled, NAMED), -1, dtype=np.int16),
        tokens=np.zeros((labelled, NAMED), dtype=np.int32),
    )
    made = examples(corpus, kind, rng)
    i = 0
    while i < count:
        example = next(made)
        asked = tokenizer(prompt_text(example), add_special_tokens=False)["input_ids"]
        first = [t for token in asked for t in [token] * (IMAGE_TOKENS if token == image else 1)]
        answer = [*tokenizer(example.answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(first) + len(answer) > shape.length or len(answer) > shape.answer:
            continue
        drawn = [draw(picture) for picture in example.pictures]
        if not all(one.whole for one in drawn):
            continue  # or captions would tell of words that nobody can see
        rows.ids[i, : len(first) + len(answer)] = [*first, *answer]
        rows.positions[i, : len(answer)] = range(len(first) - 1, len(first) + len(answer) - 1)
        rows.targets[i, : len(answer)] = answer
        for place, one in enumerate(drawn):
            rows.pixels[i, place] = one.pixels
        if labelled:
            rows.characters[i] = drawn[0].characters
            _name_tokens(rows, i, example.pictures[0], drawn[0].places, tokenizer)
        i += 1
    return rows


def _name_tokens(rows: Rows, i: int, picture: Picture, places: list[int], tokenizer: Any) -> None:
    """Notes for the tokens of the picture's text, as the caption has them, in which patch each ends."""
    said = caption(picture)
    start = said.index('"') + 1
    found = tokenizer(said, add_special_tokens=False, return_offsets_mapping=True)
    slot = 0
    for token, (begin, end) in zip(found["input_ids"], found["offset_mapping"], strict=True):
        if begin >= start - 1 and start < end <= start + len(places) and slot < NAMED:
            rows.token_places[i, slot] = places[end - 1 - start]
            rows.tokens[i, slot] = token
            slot += 1


class Supply:
    """Chunks of rows from worker processes, in the order in which they come.

    Args:
        folder: with `corpus.json` and the tokenizer.
        fonts: folder of fonts.
        wanted: kind -> number of rows.
        seed: rows are drawn from `(seed, kind, chunk)`.
        workers: processes.
    """

    def __init__(self, folder: Path, fonts: Path, wanted: dict[str, int], seed: int, workers: int) -> None:
        self.ready: queue.Queue[tuple[str, Rows] | BaseException] = queue.Queue()
        chunks = {
            kind: -(-n // CHUNK) + 1 for kind, n in wanted.items()
        }  # one more, that is kept for the score
        most = max(chunks.values())
        jobs = [
            (str(folder), str(fonts), kind, (seed * 1_000_003 + turn) * 8 + at, CHUNK)
            for turn in range(most)
            for at, (kind, n) in enumerate(chunks.items())
            if turn * n // most != (turn + 1) * n // most  # each kind spread evenly over the turns
        ]
        self.left = len(jobs)
        self._pool = multiprocessing.get_context("spawn").Pool(workers)
        threading.Thread(target=self._receive, args=(jobs,), daemon=True).start()

    def _receive(self, jobs: list[tuple[str, str, str, int, int]]) -> None:
        try:
            for found in self._pool.imap_unordered(_job, jobs):
                self.ready.put(found)
        except BaseException as error:
            self.ready.put(error)
        self._pool.close()

    def take(self, *, wait: bool) -> tuple[str, Rows] | None:
        """The next chunk, or None when none is ready (or will come); raises what a worker raised."""
        if self.left == 0:
            return None
        try:
            found = self.ready.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(found, BaseException):
            raise found
        self.left -= 1
        return found

    def close(self) -> None:
        """Ends the workers, whatever is left."""
        self._pool.terminate()


def _job(job: tuple[str, str, str, int, int]) -> tuple[str, Rows]:
    return job[2], make_rows(*job)


def arrays(rows: Rows) -> dict[str, np.ndarray]:
    """The arrays of some rows by name."""
    return {f.name: getattr(rows, f.name) for f in fields(Rows)}
