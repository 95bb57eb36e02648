"""Makes answers to learn from out of what the base model says: short, whole, and never in circles."""

from __future__ import annotations

import re
from collections.abc import Sequence

from training.smol.corpus.repetition import looping

POINT_LENGTH, ANSWER_LENGTH = 110, 260
"""Longest point of a list and longest other answer, in characters."""
CUT_LENGTH = 84
"""A stored point of one sentence that is longer than this may have been broken off at `POINT_LENGTH`."""
_POINT = re.compile(r"(?:^|\s)([123])[.)]\s+(?=\S)")
_NUMBERING = re.compile(
    r"""(?xi) ^ \s* (?:
        \d+ (?: \.\d+ )+ (?! [\d%] )             # 1.1.1
      | \(? \d+ [.)] (?= \s )                    # 2. or (2)
      | (?: step | method | tip | way | point | item | stage | option | idea | phase | part ) \s* \#? \d+ \b
      | [-*•–—#:]+ (?= \s | \* )
      | \*\*
    ) [\s.:)*–—-]*"""
)
_LITTLE = (
    "a an the that which who whom whose where when while because although if so and or but nor as than of from with "
    "for in on at by into onto over under about through between within without during after before via per your their "
    "its our my his her this these those some any each every all both no not other another such only also even very "
    "more most you we they he she it there what how why is are was were can could will would"
)
"""Words that neither end a sentence nor begin a task."""
_LOOSE = (
    "to be been being has have had do does did shall should may might must like just often usually using allowing "
    "making ensuring including based according various different specific several many much ever don't can't isn't "
    "aren't won't it's they're"
)
_NO_TASK = frozenset(f"{_LITTLE} to unlike".split())
_LOOSE_END = re.compile(rf"(?i)[\s,;:(–-]+(?:{'|'.join(f'{_LITTLE} {_LOOSE}'.split())})$")
_CLAUSE = re.compile(
    r"[,;:] | [-–] | \(| (?:which|that|who|where|when|while|because|although|if|so|but|and|as|including|such as"
    r"|in order to|to|for|with|through|by|from|without) "
)
_STUB = re.compile(
    r" (?:(?:that|which|who|where|when|whether|because|without|as if) \S+(?: \S+)?"
    r"|to (?:create|ensure|make|be|have|help|provide|get|keep|use|take|do|allow)|(?:designed|made) \S+"
    r"|associated|related|designed|allows?|involves?|requires?|means)$"
)
"""The beginning of a clause whose end was broken off."""
_SENTENCE_END = re.compile(r"(?<![\s(]\d)(?<!^\d)(?<!i\.e)(?<!e\.g)[.!?][\"')]?(?=\s|$)")
_DECLINES = re.compile(
    r"(?i)\b(i'm sorry|i am sorry|i'm afraid (?:i|that)|i cannot|i can't|as an ai|i'm an ai|i'm unable|apologi[sz]e"
    r"|ready to (?:help|assist)|task for today"
    r"|suggested alternative|rephrase|paraphrase|i'd be happy|please provide|provide more (?:context|information))\b"
)
_LAST_NUMBER = re.compile(r"[\s,;:]*(?:\band\b\s*)?\(?\b\d{1,2}[.)]$")


def three_points(text: str) -> str | None:
    """The first three numbered points of an answer as the base gave it, each cut to its first sentences.

    None when a point is missing or broken off, or when the list is of no use (see `listed`).
    """
    starts: list[re.Match[str]] = []
    for match in _POINT.finditer(text):
        if len(starts) < 3 and int(match[1]) == len(starts) + 1:
            starts.append(match)
    if len(starts) < 3:
        return None
    ends = [starts[1].start(), starts[2].start(), len(text)]
    bodies = [text[m.end() : end].strip() for m, end in zip(starts, ends, strict=True)]
    rest = re.split(r"\n\s*\n|\s4[.)]\s", bodies[2])
    bodies[2] = rest[0].strip()
    if len(rest) == 1 and len(bodies[2]) <= POINT_LENGTH and not bodies[2].endswith((".", "!", "?")):
        return None  # the answer ended before the point did
    return listed(bodies)


def cleaned_points(points: str) -> str | None:
    """A stored list by today's rules; None when it is of no use any more."""
    bodies = [line.split(" ", 1)[-1] for line in points.splitlines()]
    if len(bodies) != 3:
        return None
    broken = [len(b) > CUT_LENGTH and b.endswith(".") and not _SENTENCE_END.search(b[:-1]) for b in bodies]
    return listed([_clause(b.rstrip(".")) if cut else b for b, cut in zip(bodies, broken, strict=True)])


def listed(bodies: Sequence[str]) -> str | None:
    """Three points as a numbered list, or None: too short, alike, repeating, declining, or mere figures."""
    short = [_tidy(first_sentences(without_numbering(body), POINT_LENGTH)) for body in bodies]
    if any(len(b) < 3 for b in short) or len({b.lower()[:12] for b in short}) < 3:
        return None
    if sum(b[0].isdigit() for b in short) > 1:
        return None
    return _useful("\n".join(f"{i}. {b}" for i, b in enumerate(short, 1)))


def sentences(text: str) -> str | None:
    """The first whole sentences of an answer, or None when there is none or they are of no use."""
    answer = first_sentences(" ".join(text.split()), ANSWER_LENGTH)
    while number := _LAST_NUMBER.search(answer):  # the number of a point that did not come
        answer = answer[: number.start()].rstrip(" ,;")
        answer = answer if answer.endswith((".", "!", "?", ":")) else answer + "."
    answer = _tidy(answer)
    if len(answer) < 4 or not answer.endswith((".", "!", "?", '"')):
        return None
    return _useful(answer)


def without_numbering(text: str) -> str:
    """A point without numbers, bullets, asterisks and "Step 1:" at its beginning."""
    text = text.replace("**", "").strip()
    while (found := _NUMBERING.match(text)) and found.end():
        text = text[found.end() :]
    return text[:1].upper() + text[1:]


def first_sentences(text: str, limit: int) -> str:
    """Whole sentences of at most `limit` characters; the first clause of a longer sentence."""
    text = text.replace("**", "").strip()
    if len(text) <= limit:
        return text
    ends = [m.end() for m in _SENTENCE_END.finditer(text[: limit + 1]) if m.end() <= limit]
    return text[: ends[-1]].strip() if ends else _clause(text[:limit].rsplit(" ", 1)[0])


def _clause(text: str) -> str:
    """A sentence that was broken off, up to its last whole clause, with a full stop."""
    cuts = [m.start() for m in _CLAUSE.finditer(text) if m.start() > 18]
    text = text[: cuts[-1]] if cuts else text
    while loose := _LOOSE_END.search(text) or _STUB.search(text):
        text = text[: loose.start()].rstrip(" ,;:–-(")
    return text.strip(" ,;:–-(") + "."


def _tidy(text: str) -> str:
    text = " ".join(text.split())
    text = re.sub(r"([.!?][\"'])\.$", r"\1", text)
    text = _LAST_NUMBER.sub(".", text)
    return re.sub(r"(?<!\.)\.\.$", ".", text).rstrip(" ,;:-–")


def _useful(answer: str) -> str | None:
    return None if repeats(answer) or looping(answer) or _DECLINES.search(answer) else answer


def repeats(text: str, size: int = 4) -> bool:
    """True when a run of `size` words comes twice."""
    found = re.findall(r"\w+", text.lower())
    runs = [tuple(found[i : i + size]) for i in range(len(found) - size + 1)]
    return len(set(runs)) < len(runs)


def names_a_task(text: str) -> bool:
    """True when a phrase begins as something to do does: not with "of", "their" or "planning"."""
    first = text.split(" ", 1)[0].lower()
    return first not in _NO_TASK and not (first.endswith("ing") and len(first) > 5)
