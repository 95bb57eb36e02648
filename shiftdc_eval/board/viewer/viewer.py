"""`shiftdc-eval view RUN`: a page to read the samples of a run.

The page holds text that models wrote: every string is escaped, control characters and broken Unicode become
replacement characters, direction marks cannot reorder the page, and a content security policy allows only the
page's own script.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shiftdc_eval.board.cell import slug
from shiftdc_eval.board.render.format import clean
from shiftdc_eval.board.render.page import assets, template
from shiftdc_eval.board.viewer.images import Pictures
from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.errors import RecordError, WriteError
from shiftdc_eval.core.files import atomic_write
from shiftdc_eval.core.records import SampleField, StoredItem
from shiftdc_eval.core.results_folder import (
    FIELD,
    ITEM_FIELD,
    RunRecords,
    sample_field,
    sample_files,
    stored_item,
)
from shiftdc_eval.core.terminal import say

FAILURES = ("complied", "unsafe")


@dataclass(frozen=True)
class Shown:
    """One verdict on the page."""

    judge: str
    value: str
    reason: str
    tone: str
    """`bad`, `good`, `none` (unscored) or `score`."""


@dataclass(frozen=True)
class Sample:
    """One answer on the page."""

    item: str
    repeat: int
    request: str
    prompt: str
    response: str | None
    reference: str
    verdicts: list[Shown]
    images: list[str]
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

    @property
    def unscored(self) -> bool:
        """True when a judge gave no verdict."""
        return any(verdict.tone == "none" for verdict in self.verdicts)


@dataclass
class Part:
    """The samples of one task and run."""

    task: str
    file: str
    by: str = ""
    """Defense and model, where the run record is at hand."""
    samples: list[Sample] = field(default_factory=list)


def configure(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("run", nargs="+", type=Path, help="results folder or samples file of lmms-eval")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("view.html"),
        help="page to write (default: view.html in the current folder)",
    )
    parser.add_argument(
        "--images",
        choices=("link", "embed", "none"),
        default="link",
        help="link images that are files here, embed those below the results folders, SHIFTDC_DATA and --image-dir, or "
        "leave them out",
    )
    parser.add_argument(
        "--image-dir",
        type=Path,
        help="folder of images to look through; they are matched by the hash of their pixels, not by name",
    )
    parser.add_argument("--limit", type=int, default=5000, help="maximal number of samples")


def main(args: argparse.Namespace) -> int:
    """Write the page; 0 when it was written.

    Raises:
        RecordError: the run has no sample of ours, or one is malformed.
    """
    if args.output.is_dir():
        raise WriteError(f"{args.output}: cannot be written: a folder stands there; name a file with -o")
    inside = [path if path.is_dir() else path.parent for path in args.run]
    inside += [Path(data)] if (data := setting("SHIFTDC_DATA")) else []
    pictures = Pictures(args.images, args.output.parent.resolve(), args.image_dir, inside)
    parts = read_parts(args.run, pictures, args.limit, args.output)
    atomic_write(args.output, render(parts))
    count = sum(len(part.samples) for part in parts)
    tasks = len({part.task for part in parts})
    say(
        f"page {args.output}: {count} samples of {tasks} {'task' if tasks == 1 else 'tasks'} in {len(parts)} "
        f"{'file' if len(parts) == 1 else 'files'} (a repeated run counts again); "
        "it holds texts of models, do not publish it"
    )
    if pictures.left_out:
        say(
            f"{pictures.left_out} images left out: only images below the results folders, SHIFTDC_DATA and --image-dir "
            "are embedded",
            error=True,
        )
    if count == args.limit:
        say(f"stopped after --limit {args.limit} samples", error=True)
    return 0


def read_parts(
    folders: Sequence[Path], pictures: Pictures, limit: int, page: Path | None = None
) -> list[Part]:
    """The samples of the folders, one part per samples file.

    Args:
        folders: results folders or samples files.
        pictures: finds the images.
        limit: maximal number of samples.
        page: path of the page; samples are then linked to their pages of `shiftdc-eval explain`.
    Raises:
        RecordError: there is no sample of ours, or a row is malformed.
    """
    parts = []
    records = RunRecords(folders)
    for file in sample_files(folders):
        part = Part(clean(file.task), clean(file.path.name))
        for number, row in file.rows():
            if limit > 0 and FIELD in row:
                part.samples.append(read_sample(row, file.path, number, pictures, page))
                if len(part.samples) == 1:
                    part.by = answered_by(records, row)
                limit -= 1
        if part.samples:
            parts.append(part)
    if not parts:
        raise RecordError(f"{', '.join(map(str, folders))}: no sample row holds the field `{FIELD}`")
    return parts


def answered_by(records: RunRecords, row: Mapping[str, Any]) -> str:
    """Defense and model of a row's run; empty where its run record is not at hand."""
    run = row[FIELD].get("run") or ""
    try:
        record = records.get(run, "")
    except RecordError:
        return ""
    gate = record.settings.get("gate")
    return clean(f"{record.defense}{f', gated by {gate}' if gate else ''} on {record.model}")


def read_sample(
    row: Mapping[str, Any], source: Path, number: int, pictures: Pictures, page: Path | None
) -> Sample:
    """One row of a samples file as a sample.

    Raises:
        RecordError: names file, line and field.
    """
    where = f"{source}:{number}"
    sample = sample_field(row, where)
    item = stored_item(row, where) if ITEM_FIELD in row else StoredItem(request="", response=None)
    return Sample(
        item=clean(sample.item),
        repeat=sample.repeat,
        request=clean(item.request or ""),
        prompt=clean(item.prompt or ""),
        response=None if item.response is None else clean(item.response),
        reference=clean(item.reference or ""),
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
        **(explanation(sample, source, page) if page else {}),
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


def tone(value: str | float | None) -> str:
    """CSS class of a verdict."""
    if isinstance(value, str):
        return "bad" if value in FAILURES else "good"
    return "none" if value is None else "score"


def render(parts: Sequence[Part]) -> str:
    """The page."""
    judges = sorted(
        {verdict.judge for part in parts for sample in part.samples for verdict in sample.verdicts}
    )
    text: str = template("view.html.j2").render(parts=parts, judges=judges, **assets("view"))
    return text
