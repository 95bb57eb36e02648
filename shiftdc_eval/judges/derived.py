"""Verdicts that need no question of their own: another reading of a reply, or two verdicts together.

They stand in columns of their own beside the verdicts that they are made of, and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shiftdc_eval.core.hashing import digest
from shiftdc_eval.judges.parsing import PARSERS
from shiftdc_eval.judges.rubric import Rubric
from shiftdc_eval.judges.verdict import Item, Judge, Kind, Verdict, ask, rubric_hash

FREE = {"seconds": 0.0, "tokens_in": 0, "tokens_out": 0, "price": 0.0}


@dataclass(frozen=True)
class DerivedJudge:
    """Makes a verdict from those of other judges on the same answer."""

    name: str
    kind: Kind
    sources: tuple[Judge, ...]
    rule: Callable[[Sequence[Verdict]], Verdict]
    """Verdicts of the sources, in order -> verdict."""
    identity: str
    """What the rule does, with its version: part of the fingerprint."""

    @property
    def fingerprint(self) -> str:
        """sha256 of the rule and of the sources."""
        return digest({"rule": self.identity, "of": [source.fingerprint for source in self.sources]})

    @property
    def rubric_sha256(self) -> str:
        """Hash of the first source's rubric."""
        return rubric_hash(self.sources[0])

    def derive(self, verdicts: Mapping[str, Verdict]) -> Verdict:
        """The verdict that follows from those of one answer, by judge name."""
        found = [verdicts[source.name] for source in self.sources]
        free = FREE if any(verdict.asked for verdict in found) else {}
        return self.rule(found).model_copy(update={"model": found[0].model, **free})

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item; the sources are asked, whose scored verdicts come from the cache."""
        asked = {source.name: ask(source, items) for source in self.sources}
        return [
            self.derive({name: verdicts[place] for name, verdicts in asked.items()})
            for place in range(len(items))
        ]


def with_readings(judges: Sequence[Judge]) -> list[Judge]:
    """The judges, each followed by the further readings that its rubric names."""
    found: list[Judge] = []
    for judge in judges:
        found.append(judge)
        rubric = getattr(judge, "rubric", None)
        if isinstance(rubric, Rubric):
            found += [_reading(judge, rubric, name) for name in rubric.readings]
    return found


def _reading(judge: Judge, rubric: Rubric, name: str) -> DerivedJudge:
    reading = rubric.readings[name]
    other = rubric.model_copy(update={"kind": reading.kind, "labels": reading.labels})

    def read_again(verdicts: Sequence[Verdict]) -> Verdict:
        [verdict] = verdicts
        update: dict[str, object] = {"kind": reading.kind}
        if verdict.scored:
            parsed = PARSERS[rubric.parser](verdict.raw or "", other, "")
            update |= {"value": parsed.value, "reason": parsed.reason}
        return verdict.model_copy(update={**update, "raw": None})

    identity = digest({"reading": reading.model_dump(), "parser": rubric.parser})
    return DerivedJudge(f"{judge.name}_{name}", reading.kind, (judge,), read_again, identity)
