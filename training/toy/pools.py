"""Pools of ready training rows: pictures drawn and words tokenised once, on several processes."""

from __future__ import annotations

import random
import zlib
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shiftdc_eval.tasks.toy.world import drawing
from shiftdc_eval.tasks.toy.world.drawing import SIZE, Mark
from shiftdc_eval.tasks.toy.world.questions import WORDS
from shiftdc_eval.tasks.toy.world.vocabulary import COLOURS, LIST_TITLES, THINGS
from training.toy.corpus import Example, Mixture, picture_example, text_example
from training.toy.model import EOS, IMAGE, IMAGE_TOKENS, PAD, PATCH, chat

_LOOSE = (*dict.fromkeys(" ".join(LIST_TITLES).split()), "a", "1.", "2.", "3.")
WHAT = ("nothing", *WORDS, *_LOOSE, *(f"drawn {thing}" for thing in THINGS))
"""Classes of the dense labels: what lies in a patch, a written word or a drawn thing."""
COLOUR = ("none", *COLOURS)
_WHAT_ID = {name: i for i, name in enumerate(WHAT)}
_COLOUR_ID: dict[str | None, int] = {None: 0, **{name: i for i, name in enumerate(COLOUR)}}
GRID = SIZE // PATCH
CHUNK = 1000


@dataclass(frozen=True)
class Rows:
    """Tokenised conversations, padded on the right."""

    ids: NDArray[np.int64]
    """[rows, length]"""
    positions: NDArray[np.int64]
    """[rows, answer length]: the position whose output predicts each answer token."""
    targets: NDArray[np.int64]
    """[rows, answer length]: the answer tokens, -100 where a row has fewer."""
    image: NDArray[np.int64]
    """[rows]: position of the first image token, 0 in rows without an image."""


@dataclass(frozen=True)
class PicturePool:
    """Drawn pictures with their dense labels and the examples that go with them."""

    pixels: NDArray[np.uint8]
    """[pictures, 3, 128, 128]"""
    what: NDArray[np.int64]
    """[pictures, 64]: index into `WHAT` of what covers most of each patch."""
    colour: NDArray[np.int64]
    """[pictures, 64]: index into `COLOUR`."""
    examples: list[Example]


def token_name(label: str) -> str:
    """A class of the dense labels as the language model writes it; empty for a patch with nothing in it."""
    return "" if label in ("nothing", "none") else f" {label.removeprefix('drawn ')}"


def patch_labels(marks: list[Mark]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What lies in each of the 8 x 8 patches and in which colour, by the largest overlap."""
    what = np.zeros((GRID, GRID), dtype=np.int64)
    colour = np.zeros((GRID, GRID), dtype=np.int64)
    best = np.full((GRID, GRID), 12.0)  # pixels: a sliver of a word is no label
    edges = np.arange(GRID) * PATCH
    for mark in marks:
        left, top, right, bottom = mark.box
        wide = np.clip(np.minimum(edges + PATCH, right) - np.maximum(edges, left), 0, None)
        high = np.clip(np.minimum(edges + PATCH, bottom) - np.maximum(edges, top), 0, None)
        overlap = high[:, None] * wide[None, :]
        better = overlap > best
        best = np.where(better, overlap, best)
        what[better] = _WHAT_ID[f"drawn {mark.name}" if mark.colour else mark.name]
        colour[better] = _COLOUR_ID[mark.colour]
    return what.ravel(), colour.ravel()


@dataclass(frozen=True)
class _Drawn:
    """What a drawing process sends back; flat pictures compress fiftyfold, and pipes are slow."""

    packed: bytes
    what: NDArray[np.int64]
    colour: NDArray[np.int64]
    examples: list[Example]


def _picture_chunk(job: tuple[str, int, Mixture]) -> _Drawn:
    seed, n, mix = job
    rng = random.Random(seed)
    pixels = np.empty((n, 3, SIZE, SIZE), dtype=np.uint8)
    what = np.empty((n, GRID * GRID), dtype=np.int64)
    colour = np.empty_like(what)
    examples = []
    for i in range(n):
        example = picture_example(rng, mix)
        assert example.picture is not None
        image, marks = drawing.draw(example.picture)
        pixels[i] = np.asarray(image).transpose(2, 0, 1)
        what[i], colour[i] = patch_labels(marks)
        examples.append(example)
    return _Drawn(zlib.compress(pixels.tobytes(), 1), what, colour, examples)


def _workers(n: int) -> ProcessPoolExecutor:
    # Forked workers need not import torch again; they only draw and tokenise. Elsewhere the default has to do.
    method = "fork" if "fork" in get_all_start_methods() else None
    return ProcessPoolExecutor(n, mp_context=get_context(method))


def picture_pool(n: int, seed: int, mix: Mixture, workers: int) -> PicturePool:
    """Draws `n` pictures; the result depends on the seed and not on the number of workers."""
    jobs = [(f"pictures/{seed}/{start}", min(CHUNK, n - start), mix) for start in range(0, n, CHUNK)]
    pixels = np.empty((n, 3, SIZE, SIZE), dtype=np.uint8)
    parts = []
    with _workers(workers) as pool:
        for i, part in enumerate(pool.map(_picture_chunk, jobs)):
            drawn = np.frombuffer(zlib.decompress(part.packed), dtype=np.uint8)
            pixels[i * CHUNK : (i + 1) * CHUNK] = drawn.reshape(-1, 3, SIZE, SIZE)
            parts.append(part)
    what, colour = (np.concatenate([getattr(p, name) for p in parts]) for name in ("what", "colour"))
    return PicturePool(pixels, what, colour, [example for p in parts for example in p.examples])


def text_pool(n: int, seed: int, mix: Mixture, *, aligned: bool) -> list[Example]:
    """`n` conversations without pictures."""
    rng = random.Random(f"text/{seed}/{aligned}")
    return [text_example(rng, mix, aligned=aligned) for _ in range(n)]


_Tokens = list[tuple[list[int], list[int]]]


def _tokenised(job: tuple[list[tuple[str, str]], Any]) -> _Tokens:
    texts, tokenizer = job
    prompts = tokenizer([prompt for prompt, _ in texts])["input_ids"]
    answers = tokenizer([f" {answer}" for _, answer in texts], add_special_tokens=False)["input_ids"]
    return list(zip(prompts, answers, strict=True))


def rows(examples: list[Example], tokenizer: Any, workers: int = 1) -> Rows:
    """Tokenises conversations: prompt, answer, end of sequence."""
    texts = [(chat(e), e.answer) for e in examples]
    jobs = [(texts[start : start + 4 * CHUNK], tokenizer) for start in range(0, len(texts), 4 * CHUNK)]
    if workers == 1 or len(jobs) == 1:
        tokens = [pair for job in jobs for pair in _tokenised(job)]
    else:
        with _workers(workers) as pool:
            tokens = [pair for part in pool.map(_tokenised, jobs) for pair in part]
    longest = max(
        len(prompt) + (IMAGE in prompt) * (IMAGE_TOKENS - 1) + len(answer) for prompt, answer in tokens
    )
    widest = max(len(answer) for _, answer in tokens) + 1
    ids = np.full((len(tokens), -(-(longest + 1) // 8) * 8), PAD, dtype=np.int64)
    positions = np.zeros((len(tokens), widest), dtype=np.int64)
    targets = np.full((len(tokens), widest), -100, dtype=np.int64)
    image = np.zeros(len(tokens), dtype=np.int64)
    for i, (prompt, answer) in enumerate(tokens):
        if IMAGE in prompt:
            image[i] = at = prompt.index(IMAGE)
            prompt = prompt[:at] + [IMAGE] * IMAGE_TOKENS + prompt[at + 1 :]
        row, count = [*prompt, *answer, EOS], len(answer) + 1
        ids[i, : len(row)] = row
        positions[i, :count] = np.arange(len(prompt) - 1, len(row) - 1)
        targets[i, :count] = row[len(prompt) :]
    return Rows(ids, positions, targets, image)
