"""`shiftdc-eval view`: the board's page of samples, with the images that tasks draw."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from PIL import Image

from shiftdc_eval.board.viewer import viewer
from shiftdc_eval.core.errors import ShiftDCError
from shiftdc_eval.core.terminal import say

configure = viewer.configure


def main(args: argparse.Namespace) -> int:
    """Write the page; errors as `viewer.main`."""
    return viewer.main(args, drawn)


def drawn(task: str) -> Iterator[Image.Image]:
    """The images of a task's items as they are asked about; none where the task or its data is not here."""
    try:
        from shiftdc_eval.analysis.items import load_task

        say(f"looking for the images of {task}", error=True)
        examples = load_task(task).source.examples
    except (ImportError, ShiftDCError):
        return
    for example in examples:
        try:
            if example.image is not None:
                yield example.image()
        except ShiftDCError:  # missing or damaged: the others may be there
            continue
