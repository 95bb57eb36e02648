"""Contrast sets: matched unsafe and safe requests, from which a safety direction is fitted.

A contrast set is a JSONL file with one pair per line. `unsafe` and `safe` are required; captions are either
`unsafe_caption` and `safe_caption`, or one `caption` for both sides; `id` and `category` are optional and
other fields are ignored. The first line may be a header instead: an object with a `license`.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import astuple, dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Literal

from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.defenses.prompts import prompt

BUILT_IN = Path(__file__).with_name("contrast.jsonl")
"""200 pairs of our own writing."""

MINIMUM_PAIRS = 8
"""With fewer pairs the mean reflects the individual sentences rather than safety."""

FIELDS = ("id", "category", "unsafe", "safe", "unsafe_caption", "safe_caption", "caption")

Side = Literal["unsafe", "safe"]
SIDES: tuple[Side, Side] = ("safe", "unsafe")


@dataclass(frozen=True)
class ContrastPair:
    """Two requests that differ in little but their safety."""

    id: str
    """Unique in its set; a hash of the content where the file gives none."""
    category: str
    """Kind of harm; empty where the file gives none."""
    unsafe: str
    """The request that should be refused."""
    safe: str
    """The request that should be answered."""
    unsafe_caption: str | None = None
    """Caption of an image that could come with the unsafe request; given on both sides or on none."""
    safe_caption: str | None = None
    """Caption of an image that could come with the safe request."""

    def prompts(self, side: Side) -> list[str]:
        """One side's text-only inputs: the bare request and, with a caption, the caption form of METHOD.md."""
        query, caption = (
            (self.unsafe, self.unsafe_caption) if side == "unsafe" else (self.safe, self.safe_caption)
        )
        if caption is None:
            return [query]
        return [query, prompt("shiftdc_text_only", query=query, caption=caption)]


@dataclass(frozen=True)
class ContrastSet:
    """Pairs and the name they go by."""

    pairs: tuple[ContrastPair, ...]
    name: str

    @cached_property
    def sha256(self) -> str:
        """Hash of the pairs, hex: the order of the lines, the header and the spacing do not matter."""
        content = sorted(astuple(pair) for pair in self.pairs)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def prompts(self, side: Side) -> list[str]:
        """Text-only inputs of one side, pair by pair: the bare request, then its caption form if it has one."""
        return [text for pair in self.pairs for text in pair.prompts(side)]

    def fit_prompts(self, side: Side, *, bare: bool = False) -> list[str]:
        """The texts of one side that a direction is fitted on.

        Args:
            bare: as in the authors' code (run_safety_shift.py): with the caption alone, where there is one.
        """
        return [pair.prompts(side)[-1] for pair in self.pairs] if bare else self.prompts(side)

    def spread(self) -> list[ContrastPair]:
        """The pairs in an order whose every beginning has all categories alike; it follows from hashes of the ids."""
        by_category: defaultdict[str, list[tuple[str, ContrastPair]]] = defaultdict(list)
        for pair in self.pairs:
            by_category[pair.category].append((hashlib.sha256(pair.id.encode()).hexdigest(), pair))
        order = [
            ((rank + 0.5) / len(members), digest, pair)
            for members in by_category.values()
            for rank, (digest, pair) in enumerate(sorted(members, key=lambda member: member[0]))
        ]
        return [pair for _, _, pair in sorted(order, key=lambda place: place[:2])]

    def split(self, held_out_fraction: float = 0.2) -> tuple[ContrastSet, ContrastSet]:
        """The pairs to fit on and the pairs held out, which come from all categories alike.

        The split follows from hashes of the ids, not from the order of the file. Lines that repeat a request
        under another caption are pairs of their own and may end up on different sides.

        Raises:
            ConfigError: the fraction is not between 0 and 1.
        """
        if not 0 < held_out_fraction < 1:
            raise ConfigError(f"held_out_fraction is {held_out_fraction}; give a number between 0 and 1")
        order = self.spread()
        count = min(max(round(len(order) * held_out_fraction), 1), len(order) - 1)
        chosen = {pair.id for pair in order[:count]}
        return (
            ContrastSet(tuple(pair for pair in self.pairs if pair.id not in chosen), f"{self.name} (fit)"),
            ContrastSet(tuple(pair for pair in self.pairs if pair.id in chosen), f"{self.name} (held out)"),
        )


def load_contrast(path: Path | None = None) -> ContrastSet:
    """Read a contrast set; the built-in one when no path is given.

    Raises:
        DataError: the file cannot be read, a line is malformed (the message names file, line and field),
            a pair or an id comes twice, a request stands on both sides, or there are fewer than 8 pairs.
    """
    path = path or BUILT_IN
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise DataError(f"cannot read the contrast set {path}: {error.strerror or error}") from error
    name = path.stem
    found: list[tuple[str, ContrastPair]] = []
    first = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        row = _object(line, where)
        if first and "license" in row and not row.keys() & {"unsafe", "safe"}:
            name = _text(row, "name", where) or name
        else:
            found.append((where, _pair(row, where)))
        first = False
    _refuse_duplicates(found)
    if len(found) < MINIMUM_PAIRS:
        raise DataError(f"{path} holds {len(found)} pairs; a contrast set needs at least {MINIMUM_PAIRS}")
    return ContrastSet(tuple(pair for _, pair in found), name)


def _object(line: bytes, where: str) -> dict[str, object]:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON ({error}); write one JSON object a line, in UTF-8") from error
    if not isinstance(row, dict):
        raise DataError(
            f"{where} holds a {type(row).__name__}; write an object with the fields unsafe and safe"
        )
    return row


def _text(row: dict[str, object], field: str, where: str) -> str | None:
    """A field's text without outer white space; None where the field is absent or null."""
    value = row.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError(f"{where}, field {field!r}: {value!r:.60} is not a text; put it in quotes")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}, field {field!r}: {error.reason}; remove that character") from error
    if not value.strip():
        raise DataError(f"{where}, field {field!r} is empty; give a text or leave the field out")
    return value.strip()


def _pair(row: dict[str, object], where: str) -> ContrastPair:
    text = {field: _text(row, field, where) for field in FIELDS}
    for unknown in row.keys() - set(FIELDS):
        for meant in get_close_matches(unknown, [f for f in FIELDS if text[f] is None], n=1, cutoff=0.85):
            raise DataError(f"{where}, field {unknown!r} is not known; did you mean {meant!r}?")
    unsafe, safe = text["unsafe"], text["safe"]
    if unsafe is None or safe is None:
        missing = "unsafe" if unsafe is None else "safe"
        raise DataError(f"{where}, field {missing!r} is missing; each pair needs unsafe and safe")
    captions = [text["unsafe_caption"], text["safe_caption"]]
    if text["caption"] is not None:
        if captions != [None, None]:
            raise DataError(f"{where}, field 'caption' stands beside a caption of one side; keep one kind")
        captions = [text["caption"]] * 2
    if captions.count(None) == 1:
        # A caption on one side alone would make its mere presence part of the direction.
        missing = "unsafe_caption" if captions[0] is None else "safe_caption"
        raise DataError(f"{where}, field {missing!r} is missing; caption both sides or none")
    content = json.dumps([unsafe, safe, *captions])
    return ContrastPair(
        text["id"] or hashlib.sha256(content.encode()).hexdigest()[:16],
        text["category"] or "",
        unsafe,
        safe,
        *captions,
    )


def _refuse_duplicates(found: list[tuple[str, ContrastPair]]) -> None:
    ids: dict[str, str] = {}
    contents: dict[tuple[str | None, ...], str] = {}
    sides: dict[str, tuple[Side, str]] = {}
    for where, pair in found:
        requests: tuple[tuple[Side, str], ...] = (
            ("unsafe", plain(pair.unsafe)),
            ("safe", plain(pair.safe)),
        )
        for side, request in requests:
            other, earlier = sides.setdefault(request, (side, where))
            if other != side:
                raise DataError(
                    f"{where}, field {side!r} repeats the {other} request of {earlier}; remove one"
                )
        captions = (pair.unsafe_caption, pair.safe_caption)
        content = (
            *(request for _, request in requests),
            *(caption and plain(caption) for caption in captions),
        )
        if content in contents:
            raise DataError(f"{where}, fields 'unsafe' and 'safe' repeat {contents[content]}; remove one")
        if pair.id in ids:
            raise DataError(f"{where}, field 'id': {pair.id!r} is taken by {ids[pair.id]}; choose another")
        contents[content] = ids[pair.id] = where


def plain(text: str) -> str:
    """A text as it is compared with others: without case and white space of its own."""
    return " ".join(text.casefold().split())
