"""`shiftdc-eval view RUN`: a page to read the samples of a run.

The page holds text that models wrote: every string is escaped, control characters and broken Unicode become
replacement characters, direction marks cannot reorder the page, and a content security policy allows only the
page's own script.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from shiftdc_eval.board.viewer.images import Draw, Pictures
from shiftdc_eval.board.viewer.page import counts, render
from shiftdc_eval.board.viewer.samples import read_parts
from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.errors import WriteError
from shiftdc_eval.core.files import atomic_write
from shiftdc_eval.core.terminal import say


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
        help="folder of images to look through before SHIFTDC_DATA; they are matched by the hash of their pixels, not "
        "by name",
    )
    parser.add_argument(
        "--limit", type=int, default=20_000, help="maximal number of samples (default: %(default)s)"
    )


def main(args: argparse.Namespace, draw: Draw | None = None) -> int:
    """Write the page; 0 when it was written.

    Args:
        args: the command's.
        draw: makes the images of a task that are no files.

    Raises:
        RecordError: the run has no sample of ours, or one is malformed.
        WriteError: the page cannot be written.
    """
    page: Path = args.output
    if page.is_dir():
        raise WriteError(f"{page}: cannot be written: a folder stands there; name a file with -o")
    data = setting("SHIFTDC_DATA")
    pictures = Pictures(
        args.images,
        page.parent.resolve(),
        args.image_dir,
        [path if path.is_dir() else path.parent for path in args.run],
        Path(data) if data else None,
        page.with_name(f"{page.stem}-images"),
        draw,
    )
    parts = read_parts(args.run, pictures, args.limit, page)
    atomic_write(page, render(parts))
    say(f"page {page}: {counts(parts)}; it holds texts of models, do not publish it")
    if pictures.left_out:
        say(
            f"{pictures.left_out} images left out: only images below the results folders, SHIFTDC_DATA and --image-dir "
            "are embedded",
            error=True,
        )
    if unseen := sum(sample.unseen > 0 for part in parts for sample in part.samples):
        say(f"{unseen} samples without their image: set SHIFTDC_DATA or give --image-dir", error=True)
    if sum(len(part.samples) for part in parts) == args.limit:
        say(f"stopped after --limit {args.limit} samples", error=True)
    return 0
