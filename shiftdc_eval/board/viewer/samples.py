"""The samples of results folders, as the page shows them: text cleaned, verdicts with what they mean here."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from shiftdc_eval.board.cell import slug
from shiftdc_eval.board.render.format import clean
from shiftdc_eval.board.viewer.images import Pictures
from shiftdc_eval.board.viewer.journals import Journals
from shiftdc_eval.board.viewer.marks import pieces
from shiftdc_eval.board.viewer.runs import Run, labels, run_of
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.hashing import content_hash
from shiftdc_eval.core.records import BENIGN_ITEM, SampleField, StoredItem, VerdictRecord
from shiftdc_eval.core.results_folder import (
    FIELD,
    ITEM_FIELD,
    RunRecords,
    SampleFile,
    sample_field,
    sample_files,
    stored_item,
)

Tone = Literal["good", "bad", "none", "score"]
"""What is wanted of the task, a failure, unscored, or a number that is neither."""


@dataclass(frozen=True)
class Shown:
    """One verdict on the page."""

    judge: str
    value: str
    reason: str
    tone: Tone
    model: str = ""
    raw: str = ""
    """The judge's reply."""


@dataclass(frozen=True)
class Sample:
    """One answer on the page."""

    key: str
    """Anchor on the page; the same whenever the page is made."""
    item: str
    repeat: int
    request: str
    prompt: str
    context: str
    reference: str
    images: list[str]
    """Addresses."""
    unseen: int
    """Images that were asked about and are not found here."""
    response: str | None
    pieces: list[str]
    """The response; every second piece is words that a judge's verdict rests on."""
    verdicts: list[Shown]
    did: list[tuple[str, str]]
    """What the defense did, as pairs of name and text."""
    facts: list[str]
    """Groups and flags."""
    explained: str = ""
    """Address of the page that explains it layer by layer; empty where there is none."""
    explain: str = ""
    """Command that makes such a page."""

    @property
    def disagree(self) -> bool:
        """True when two judges disagree on whether the answer fails."""
        return {"bad", "good"} <= {verdict.tone for verdict in self.verdicts}


@dataclass
class Part:
    """The samples of one task and run."""

    task: str
    file: str
    run: Run
    defense: str = ""
    """Label of the defense among all runs on the page."""
    samples: list[Sample] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    """Of the rows it holds: appended files hold rows twice."""

    def tally(self) -> list[tuple[str, int, int, int]]:
        """(judge, failures, scored as right or wrong, unscored) of each judge."""
        given = [verdict for sample in self.samples for verdict in sample.verdicts]
        found = []
        for judge in dict.fromkeys(verdict.judge for verdict in given):
            tones = [verdict.tone for verdict in given if verdict.judge == judge]
            bad = tones.count("bad")
            found.append((judge, bad, bad + tones.count("good"), tones.count("none")))
        return found


def read_parts(
    folders: Sequence[Path], pictures: Pictures, limit: int, page: Path | None = None
) -> list[Part]:
    """The samples of the folders, one part per samples file and run.

    Args:
        folders: results folders or samples files.
        pictures: finds the images.
        limit: maximal number of samples.
        page: path of the page; samples are then linked to their pages of `shiftdc-eval explain`.
    Raises:
        RecordError: there is no sample of ours, or a row is malformed.
    """
    reader = Reader(RunRecords(folders), Journals(folders), pictures, page)
    parts: list[Part] = []
    for file in sample_files(folders):
        own: dict[str | None, Part] = {}
        for number, row in file.rows():
            if FIELD in row and limit > 0:
                limit -= reader.read(file, number, row, own)
        parts += own.values()
    if not parts:
        raise RecordError(f"{', '.join(map(str, folders))}: no sample row holds the field `{FIELD}`")
    seen: Counter[tuple[str, ...]] = Counter()
    for part, label in zip(parts, labels([part.run for part in parts]), strict=True):
        name = (part.task, part.run.model, label)
        seen[name] += 1
        part.defense = f"{label}, run {seen[name]}" if seen[name] > 1 else label
    return sorted(parts, key=lambda one: (one.task, one.run.model, one.defense != "none", one.defense))


@dataclass
class Reader:
    """Reads rows, with what stands beside them."""

    records: RunRecords
    journals: Journals
    pictures: Pictures
    page: Path | None
    keys: Counter[str] = field(default_factory=Counter)

    def read(
        self, file: SampleFile, number: int, row: Mapping[str, Any], own: dict[str | None, Part]
    ) -> bool:
        """Put a row into the part of its run, one of `own`; False for one that stands there already.

        Raises:
            RecordError: names file, line and field.
        """
        where = f"{file.path}:{number}"
        found = sample_field(row, where)
        item = stored_item(row, where) if ITEM_FIELD in row else StoredItem(request="", response=None)
        if found.run not in own:
            run = run_of(file, found.run, self.records)
            own[found.run] = Part(clean(file.task), clean(file.path.name), run)
        part = own[found.run]
        named = [file.task, found.run, part.run.model, found.item, found.repeat, item.response]
        key = f"s{content_hash(named)[:10]}"
        if key in part.keys:
            return False
        part.keys.add(key)
        self.keys[key] += 1
        anchor = f"{key}-{self.keys[key]}" if self.keys[key] > 1 else key
        part.samples.append(self._sample(anchor, file, row, found, item, part.run))
        return True

    def _sample(
        self,
        key: str,
        file: SampleFile,
        row: Mapping[str, Any],
        found: SampleField,
        item: StoredItem,
        run: Run,
    ) -> Sample:
        fail = run.refusals_fail or BENIGN_ITEM in found.flags
        verdicts = [
            shown(name, verdict, fail, run.utility) for name, verdict in sorted(found.verdicts.items())
        ]
        images = self.pictures.of(row.get("input_media"), found.image_sha256, file.task)
        response = None if item.response is None else clean(item.response)
        reasons = [verdict.reason for verdict in verdicts]
        return Sample(
            key=key,
            item=clean(found.item),
            repeat=found.repeat,
            request=clean(item.request or ""),
            prompt=clean(item.prompt or ""),
            context=clean(item.context or ""),
            reference=clean(item.reference or ""),
            images=images,
            unseen=max(0, len(found.image_sha256) - len(images)) if self.pictures.how != "none" else 0,
            response=response,
            pieces=pieces(response or "", reasons, clean(found.begun)),
            verdicts=verdicts,
            did=[(clean(name), clean(text)) for name, text in self._did(file.task, row, found, item, run)],
            facts=[clean(value) for value in (*found.groups.values(), *found.flags)],
            **(explanation(found, file.path, self.page) if self.page else {}),
        )

    def _did(
        self, task: str, row: Mapping[str, Any], found: SampleField, item: StoredItem, run: Run
    ) -> Iterator[tuple[str, str]]:
        """What the defense did, from the row and from the journal of its run."""
        told = {"no answer": found.unanswered, "begun": found.begun}
        told["detector score"] = "" if found.detector_score is None else f"{found.detector_score:.6g}"
        told["reasoning taken off before judging"] = ", ".join(found.reasoning)
        if run.record is not None:
            told |= self.journals.of(run.record, task, row.get("doc_id"), found.repeat, item.response)
        return ((name, text) for name, text in told.items() if text)


def shown(judge: str, verdict: VerdictRecord, refusals_fail: bool, utility: bool) -> Shown:
    """A verdict, and what it means here: where a refusal is the failure, complying is what is wanted."""
    value = verdict.value
    good = ("complied" if refusals_fail else "refused", "safe", *((1.0,) if utility else ()))
    bad = ("refused" if refusals_fail else "complied", "unsafe", *((0.0,) if utility else ()))
    tone: Tone = "none" if value is None else "good" if value in good else "bad" if value in bad else "score"
    return Shown(
        judge=clean(judge),
        value="unscored" if value is None else clean(f"{value:.6g}" if isinstance(value, float) else value),
        reason=clean(verdict.reason),
        tone=tone,
        model=clean(verdict.model),
        raw=clean(verdict.raw or ""),
    )


def explanation(sample: SampleField, source: Path, page: Path) -> dict[str, str]:
    """The sample's page of `shiftdc-eval explain`, or the command that makes it; empty where there can be none.

    Only an answer of our own model to an image can be explained.
    """
    if sample.run is None or not sample.image_sha256 or not sample.item.isprintable():
        return {}
    place = Path(f"{page.stem}-explain") / slug(sample.run) / f"{slug(sample.item)}.html"
    if (page.parent / place).is_file():
        return {"explained": quote(place.as_posix())}
    command = ["shiftdc-eval", "explain", str(source), sample.item, "-o", str(page.parent / place)]
    return {"explain": clean(shlex.join(command))}
