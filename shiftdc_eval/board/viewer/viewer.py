"""`shiftdc-eval view RUN`: a page to read the samples of a run.

The page holds what models wrote: every string is escaped, control characters and broken Unicode are shown
as replacement characters, direction marks cannot reorder the page, and a content security policy forbids
every script but the page's own.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from shiftdc_eval.board.cell import slug
from shiftdc_eval.board.render.page import assets, template
from shiftdc_eval.board.render.text import clean as clean  # the pages of `analysis` take it from here
from shiftdc_eval.board.viewer.images import Pictures
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.files import atomic_write
from shiftdc_eval.core.json_files import explain
from shiftdc_eval.core.records import SampleField
from shiftdc_eval.core.results_folder import FIELD, ITEM_FIELD, sample_files

FAILURE = {"complied": True, "unsafe": True, "refused": False, "safe": False}


@dataclass(frozen=True)
class Shown:
    """One verdict as it is shown."""

    judge: str
    value: str
    reason: str
    tone: str
    """`bad`, `good`, `none` (unscored) or `score`."""


@dataclass(frozen=True)
class Sample:
    """One answer as it is shown."""

    item: str
    repeat: int
    scenario: str
    request: str
    prompt: str
    response: str | None
    reference: str
    verdicts: list[Shown]
    images: list[str]
    facts: list[str]
    """Groups and flags."""
    explained: str = ""
    """Address of the page that shows it layer by layer, where that was made."""
    explain: str = ""
    """Command that makes that page."""

    @property
    def disagree(self) -> bool:
        """True when two judges that say whether the answer fails do not say the same."""
        return {"bad", "good"} <= {verdict.tone for verdict in self.verdicts}

    @property
    def unscored(self) -> bool:
        """True when a judge gave no verdict."""
        return any(verdict.tone == "none" for verdict in self.verdicts)


@dataclass
class Part:
    """The samples of one task and run."""

    task: str
    file: str
    samples: list[Sample] = field(default_factory=list)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("run", nargs="+", type=Path, help="results folder or samples file of lmms-eval")
    parser.add_argument("-o", "--output", type=Path, default=Path("view.html"), help="page to write")
    parser.add_argument(
        "--images",
        choices=("link", "embed", "none"),
        default="link",
        help="link images that are files here, embed them in the page, or leave them out",
    )
    parser.add_argument(
        "--image-dir",
        type=Path,
        help="folder of images to look through; they are matched by the hash of their pixels, not by name",
    )
    parser.add_argument("--limit", type=int, default=5000, help="samples to show at most")


def main(args: argparse.Namespace) -> int:
    """Write the page; 0 when it was written.

    Raises:
        RecordError: the run holds no sample of ours, or one is malformed.
    """
    pictures = Pictures(args.images, args.output.parent.resolve(), args.image_dir)
    parts = read_parts(args.run, pictures, args.limit, args.output)
    atomic_write(args.output, render(parts))
    count = sum(len(part.samples) for part in parts)
    print(
        f"{args.output}: {count} samples of {len(parts)} tasks; it holds what models wrote, do not publish it"
    )
    if count == args.limit:
        print(f"stopped after --limit {args.limit} samples", file=sys.stderr)
    return 0


def read_parts(
    folders: Sequence[Path], pictures: Pictures, limit: int, page: Path | None = None
) -> list[Part]:
    """The samples of the folders, one part a samples file.

    Args:
        folders: results folders or samples files.
        pictures: finds the images.
        limit: samples at most.
        page: where the page will stand; samples are then linked to what `shiftdc-eval explain` shows of them.
    Raises:
        RecordError: nothing of ours is there, or a row is malformed.
    """
    parts = []
    for file in sample_files(folders):
        part = Part(clean(file.task), clean(file.path.name))
        for number, row in file.rows():
            if limit > 0 and FIELD in row:
                sample = read_sample(row, f"{file.path}:{number}", pictures)
                part.samples.append(
                    sample if page is None else with_explanation(sample, row, file.path, page)
                )
                limit -= 1
        if part.samples:
            parts.append(part)
    if not parts:
        raise RecordError(f"{', '.join(map(str, folders))}: no sample row holds the field `{FIELD}`")
    return parts


def read_sample(row: Mapping[str, Any], source: str, pictures: Pictures) -> Sample:
    """One row as it is shown.

    Raises:
        RecordError: names file, line and field.
    """
    try:
        sample = SampleField.model_validate(row[FIELD])
    except ValidationError as error:
        raise RecordError(f"{source}: {FIELD}: {'; '.join(explain(error))}") from None
    found = row.get(ITEM_FIELD)
    item: Mapping[str, Any] = found if isinstance(found, dict) else {}
    response = item.get("response")
    return Sample(
        item=clean(sample.item),
        repeat=sample.repeat,
        scenario=clean(item.get("scenario") or ""),
        request=clean(item.get("request") or ""),
        prompt=clean(item.get("prompt") or ""),
        response=None if response is None else clean(response),
        reference=clean(item.get("reference") or ""),
        verdicts=[
            Shown(
                judge=clean(name),
                value="unscored" if verdict.value is None else clean(verdict.value),
                reason=clean(verdict.reason),
                tone=tone(verdict.value),
            )
            for name, verdict in sorted(sample.verdicts.items())
        ],
        images=pictures.of(row.get("input_media"), sample.image_sha256),
        facts=[clean(value) for value in (*sample.groups.values(), *sample.flags)],
    )


def with_explanation(sample: Sample, row: Mapping[str, Any], source: Path, page: Path) -> Sample:
    """A sample with the page of `shiftdc-eval explain`, or the command that makes it.

    Only an answer of our own model to an image can be explained.
    """
    field = SampleField.model_validate(row[FIELD])
    if field.run is None or not field.image_sha256 or not field.item.isprintable():
        return sample
    place = Path(f"{page.stem}-explain") / slug(field.run) / f"{slug(field.item)}.html"
    if (page.parent / place).is_file():
        return replace(sample, explained=quote(place.as_posix()))
    command = ["shiftdc-eval", "explain", str(source), field.item, "-o", str(page.parent / place)]
    return replace(sample, explain=clean(shlex.join(command)))


def tone(value: str | float | None) -> str:
    """How a verdict is shown."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return "bad" if FAILURE.get(value, False) else "good"
    return "score"


def render(parts: Sequence[Part]) -> str:
    """The page."""
    judges = sorted(
        {verdict.judge for part in parts for sample in part.samples for verdict in sample.verdicts}
    )
    text: str = template("view.html.j2").render(parts=parts, judges=judges, **assets("view"))
    return text
