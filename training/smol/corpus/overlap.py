"""Do training texts repeat items of the benchmarks? `python -m training.smol.corpus.overlap TEXTS.jsonl --data DIR`.

Texts are compared by their content words: lower case, without stop words and request frames ("Steps to",
"How can I", "Please write"), endings cut. A text repeats an item when

- its content words are the item's, or
- one holds the other's content words (three or more) in a row, or
- a short text holds all of an item's content words (four or more) in any order, or
- the sets of content words have a Jaccard similarity of `THRESHOLD` or more, or
- their sorted words are equal but for a few letters (rapidfuzz, `LETTERS` of 100 or more).

Candidates come from an inverted index of each item's rarest words, so that half a million short texts
against some thousand items take about a minute.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any

from rapidfuzz import fuzz

from shiftdc_eval.core.errors import DataError, ShiftDCError
from training.smol.corpus.eval_items import READERS, EvalItem, eval_items

THRESHOLD = 0.75
"""Least Jaccard similarity of the content words of two near-duplicates."""
LETTERS = 92.0
"""Least `rapidfuzz.fuzz.ratio` of the sorted content words of two near-duplicates."""
FLOOR = 0.5
"""Least similarity that the report shows."""
SPREAD = 2.5
"""A text with more than this many times an item's words no longer counts as that item reworded."""
FRAME = frozenset(Path(__file__).with_name("frame_words.txt").read_text(encoding="utf-8").split())
"""Words that carry no topic: stop words, and the frames in which requests are put."""
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Pair:
    """A training text and the item it is closest to."""

    index: int
    """Place of the text among the texts."""
    text: str
    item: EvalItem
    rule: str
    """`equal`, `contained`, `reordered`, `similar`, or `close` when it is no near-duplicate."""
    similarity: float
    """Jaccard similarity of the content words, 0 to 1."""


@lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    """The word without its inflection, roughly: `selling`, `sells`, `sell` are one."""
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "sl":
        word = word[:-1]
    return word[:-1] + "i" if word.endswith("y") and len(word) > 3 else word.removesuffix("e")


def content_words(text: str) -> tuple[str, ...]:
    """The words that carry a text's topic, in order, without their endings."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        text = "".join(letter for letter in text if not unicodedata.combining(letter))
    words = _WORD.findall(text.lower().replace("'", ""))
    return tuple(stem(word) for word in words if word not in FRAME)


class Index:
    """Finds the item that a text is closest to."""

    def __init__(self, items: Sequence[EvalItem], threshold: float = THRESHOLD) -> None:
        self.items, self.threshold = items, threshold
        self.words = [content_words(item.text) for item in items]
        self.sets = [frozenset(words) for words in self.words]
        self.rarity = Counter(word for words in self.sets for word in words)
        self.equal: dict[tuple[str, ...], int] = {}
        self.runs: dict[tuple[str, ...], set[int]] = defaultdict(set)
        self.by_rare_word: dict[str, list[int]] = defaultdict(list)
        for number, words in enumerate(self.words):
            self.equal.setdefault(words, number)
            for run in _runs(words):
                self.runs[run].add(number)
            rarest = sorted(self.sets[number], key=lambda word: (self.rarity[word], word))
            for word in rarest[: self._prefix(len(rarest))]:
                self.by_rare_word[word].append(number)
        self._known: dict[tuple[str, ...], tuple[int, str, float] | None] = {}

    def closest(self, text: str) -> tuple[EvalItem, str, float] | None:
        """The item, the rule and the similarity; None when no item is near."""
        words = content_words(text)
        if words not in self._known:
            self._known[words] = self._closest(words)
        found = self._known[words]
        return None if found is None else (self.items[found[0]], found[1], found[2])

    def _prefix(self, size: int) -> int:
        # of two sets this similar, the rarest `size - ceil(floor * size) + 1` words of each share one
        return size - ceil(min(FLOOR, self.threshold) * size) + 1

    def _closest(self, words: tuple[str, ...]) -> tuple[int, str, float] | None:
        if words and words in self.equal:
            return self.equal[words], "equal", 1.0
        bag = frozenset(words)
        numbers = {number for word in bag for number in self.by_rare_word.get(word, ())}
        for run in _runs(words):
            numbers |= self.runs.get(run, set())
        best: tuple[int, str, float] | None = None
        for number in sorted(numbers):
            shared = len(bag & self.sets[number])
            similarity = shared / (len(bag) + len(self.sets[number]) - shared)
            rule = self._rule(words, bag, number, shared, similarity)
            if rule == "close" and similarity < FLOOR:
                continue
            if best is None or (rule != "close", similarity) > (best[1] != "close", best[2]):
                best = number, rule, similarity
        return best

    def _rule(
        self, words: tuple[str, ...], bag: frozenset[str], number: int, shared: int, similarity: float
    ) -> str:
        item, items = self.words[number], self.sets[number]
        shorter, longer = sorted((words, item), key=len)
        if len(shorter) >= 3 and shared >= len(set(shorter)) and _holds(longer, shorter):
            return "contained"
        if len(items) >= 4 and shared == len(items) and len(bag) <= SPREAD * len(items):
            return "reordered"
        if min(len(bag), len(items)) >= 2 and similarity >= self.threshold:
            return "similar"
        near = similarity >= FLOOR / 2 and len(longer) <= len(shorter) + 1 and len(shorter) >= 3
        if near and fuzz.ratio(" ".join(sorted(words)), " ".join(sorted(item)), score_cutoff=LETTERS):
            return "similar"
        return "close"


def _runs(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (words[start : start + 3] for start in range(len(words) - 2))


def _holds(longer: tuple[str, ...], shorter: tuple[str, ...]) -> bool:
    size = len(shorter)
    return any(longer[start : start + size] == shorter for start in range(len(longer) - size + 1))


def nearest(texts: Iterable[str], items: Sequence[EvalItem], threshold: float = THRESHOLD) -> Iterator[Pair]:
    """Each text that is near an item, with its closest one, in order; `rule` tells near-duplicates apart."""
    index = Index(items, threshold)
    for number, text in enumerate(texts):
        found = index.closest(text)
        if found is not None:
            yield Pair(number, text, *found)


def overlapping(texts: Iterable[str], items: Sequence[EvalItem], threshold: float = THRESHOLD) -> list[Pair]:
    """The texts that repeat an item, each with the item it is closest to, in order."""
    return [pair for pair in nearest(texts, items, threshold) if pair.rule != "close"]


def read_texts(path: Path) -> Iterator[str]:
    """Every string of a JSON-lines file, whether a line is a string, a list or an object.

    Raises:
        DataError: names the file and the line.
    """
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield from _strings(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON: {error}") from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value if isinstance(value, list) else value.values():
            yield from _strings(part)


def report(texts: int, items: Sequence[EvalItem], pairs: Sequence[Pair], shown: int) -> str:
    """Counts by benchmark and rule, and the closest pairs of each kind."""
    repeats = [pair for pair in pairs if pair.rule != "close"]
    lines = [
        f"{texts} training texts against {len(items)} texts of benchmarks: {len(repeats)} near-duplicates"
    ]
    sizes = Counter(item.dataset for item in items)
    for dataset in (*READERS, "twins", "headings"):
        rules = Counter(pair.rule for pair in repeats if pair.item.dataset == dataset)
        found = ", ".join(f"{count} {rule}" for rule, count in rules.items()) or "none"
        lines.append(
            f"  {dataset}: {found}" if sizes[dataset] else f"  {dataset}: not in the data folder, NOT CHECKED"
        )
        if sizes[dataset]:
            lines[-1] += f" (of {sizes[dataset]} texts)"
    for title, chosen in (
        ("near-duplicates", repeats),
        ("closest of the others", [pair for pair in pairs if pair.rule == "close"]),
    ):
        distinct = {(pair.text, pair.item): pair for pair in chosen}.values()
        lines.append(f"{title}: {len(distinct)} distinct")
        for pair in sorted(distinct, key=lambda pair: -pair.similarity)[:shown]:
            lines.append(
                f"  {pair.similarity:.2f} {pair.rule}: {pair.text[:100]!r} ~ "
                f"{pair.item.dataset} {pair.item.id}: {pair.item.text[:100]!r}"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 1 when a text repeats an item, 2 when nothing could be checked."""
    parser = argparse.ArgumentParser(
        prog="python -m training.smol.corpus.overlap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("texts", type=Path, help="JSON lines; every string in them is a training text")
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmarks (SHIFTDC_DATA)")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="least similarity of a repeat")
    parser.add_argument("--shown", type=int, default=20, help="pairs that are printed")
    args = parser.parse_args(arguments)
    try:
        texts, items = list(read_texts(args.texts)), eval_items(args.data)
    except (ShiftDCError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    pairs = list(nearest(texts, items, args.threshold))
    print(report(len(texts), items, pairs, args.shown))
    return 1 if any(pair.rule != "close" for pair in pairs) else 0


if __name__ == "__main__":
    sys.exit(main())
