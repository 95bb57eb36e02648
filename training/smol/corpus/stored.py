"""Stored corpora: what earlier runs let the base say, joined and cleaned by today's rules.

`python -m training.smol.corpus.stored RUN0/corpus.json RUN1/corpus.json --data DIR --out corpus.json`
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from shiftdc_eval.core.errors import DataError, ShiftDCError
from shiftdc_eval.core.files import atomic_write
from training.smol.corpus import phrases
from training.smol.corpus.cleaning import cleaned_points, names_a_task, sentences
from training.smol.corpus.corpus import Corpus, Topic
from training.smol.corpus.drawing import fonts as fonts_of
from training.smol.corpus.phrases import Phrase


@dataclass(frozen=True)
class Stored:
    """The file `corpus.json` of a training run."""

    topics: list[Topic]
    questions: list[tuple[str, str]]
    """Benign whole questions and the base's answers."""
    requests: list[str]
    """More harmful requests, as whole sentences."""
    vocabulary: list[str]
    """Words of one token, and a few made-up ones."""
    rare: list[str] = field(default_factory=list)
    """Words of several tokens."""
    left_out: list[str] = field(default_factory=list)
    """Texts that are too near to an item of a benchmark."""
    overlap_checked: bool = False
    counts: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> Stored:
        """The stored corpus.

        Raises:
            DataError: there is no such file, or it is no corpus.
        """
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            topics = [Topic(Phrase(**t["phrase"]), t["points"], t["how"]) for t in data["topics"]]
            return Stored(
                topics,
                [(question, answer) for question, answer in data["questions"]],
                data["requests"],
                data["vocabulary"],
                data.get("rare", []),
                data["left_out"],
                data["overlap_checked"],
                data.get("counts", {}),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path} is no corpus of a training run: {error!r}; give one's corpus.json"
            ) from error

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        atomic_write(path, json.dumps(asdict(self)) + "\n")

    def texts(self) -> list[str]:
        """Every text on which training depends besides the base's answers: what the overlap check reads."""
        harmful = [p.text for p in (*phrases.phrases(), *phrases.things()) if p.harmful]
        return [*(t.text for t in self.topics), *(q for q, _ in self.questions), *harmful, *self.requests]

    def corpus(self, fonts: Path) -> Corpus:
        """Draws from it; `fonts` is a folder of TrueType fonts.

        Raises:
            DataError: there is nothing to draw from.
        """
        if not self.topics or not self.questions or not self.vocabulary + self.rare:
            raise DataError("the corpus has no topics, no questions or no words; give --corpus or --words")
        left_out = frozenset(self.left_out)
        return Corpus(
            self.topics,
            self.questions,
            self.vocabulary,
            fonts_of(fonts),
            requests=self.requests,
            rare=self.rare,
            keep=lambda text: text not in left_out,
        )


def joined(parts: Sequence[Stored]) -> Stored:
    """All topics, questions and requests of some corpora, the first of each kept; words of the first."""

    def first(pairs: Iterable[tuple[str, Any]]) -> list[Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            found.setdefault(key, value)
        return list(found.values())

    return replace(
        parts[0],
        topics=first((t.text, t) for part in parts for t in part.topics),
        questions=first((q, (q, a)) for part in parts for q, a in part.questions),
        requests=first((r, r) for part in parts for r in part.requests),
        left_out=sorted({text for part in parts for text in part.left_out}),
        overlap_checked=False,
    )


def cleaned(stored: Stored) -> Stored:
    """Answers by today's rules; no held-out phrase, no phrase that is no task or could be harmful, no answer twice."""
    topics: list[Topic] = []
    seen: set[str] = set()
    for topic in stored.topics:
        points, how = cleaned_points(topic.points), sentences(topic.how)
        made = topic.phrase.kind == "made"
        if phrases.held_out(topic.text) or (
            made and (phrases.suspect(topic.text) or not names_a_task(topic.text))
        ):
            continue
        if points is None or how is None or seen & {points, how}:
            continue
        seen |= {points, how}
        topics.append(replace(topic, points=points, how=how))
    asked = set(phrases.whole_questions())
    questions = [(q, told) for q, a in stored.questions if q in asked and (told := sentences(a))]
    counts = {"topics": len(topics), "questions": len(questions), "requests": len(stored.requests)}
    return replace(stored, topics=topics, questions=questions, counts=counts)


def checked(stored: Stored, data: Path) -> tuple[Stored, str]:
    """Without what is too near to an item of a benchmark, and the overlap report.

    Raises:
        DataError: `data` holds no benchmark.
    """
    from training.smol.corpus.eval_items import eval_items
    from training.smol.corpus.overlap import nearest, report

    texts, items = stored.texts(), eval_items(data)
    pairs = list(nearest(texts, items))
    gone = {pair.text for pair in pairs if pair.rule != "close"}
    topics = [t for t in stored.topics if t.text not in gone]
    questions = [(q, a) for q, a in stored.questions if q not in gone]
    requests = [r for r in stored.requests if r not in gone]
    left_out = sorted(gone | set(stored.left_out))
    counts = stored.counts | {
        "topics": len(topics),
        "questions": len(questions),
        "requests": len(requests),
        "left_out": len(left_out),
    }
    kept = replace(
        stored,
        topics=topics,
        questions=questions,
        requests=requests,
        left_out=left_out,
        overlap_checked=True,
        counts=counts,
    )
    return kept, report(len(texts), items, pairs, shown=20)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 2 when a file cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m training.smol.corpus.stored", description=str(__doc__).splitlines()[0]
    )
    parser.add_argument("corpora", type=Path, nargs="+", help="corpus.json of earlier runs")
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmarks (SHIFTDC_DATA)")
    parser.add_argument("--out", type=Path, required=True, help="the joined corpus")
    args = parser.parse_args(arguments)
    try:
        found, overlap = checked(cleaned(joined([Stored.read(path) for path in args.corpora])), args.data)
        found.write(args.out)
    except (ShiftDCError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(overlap)
    print(f"{args.out}: {found.counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
