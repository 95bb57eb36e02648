"""What a Ray worker does in a test: workers import it by name."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from shiftdc_eval.grid.file import Cell
from shiftdc_eval.grid.plan import COMPLETE


def work(cells: Sequence[Cell], out: Path) -> dict[str, str]:
    """Completes the cells of a model; the first worker on the second model waits once to be killed.

    Its second life completes what the first began: nothing but files is kept between the two.
    """
    out.mkdir(parents=True, exist_ok=True)
    mark = out / f"{cells[0].model.pretrained}.pid"
    first_life = not mark.is_file()
    mark.with_suffix(".new").write_text(str(os.getpid()))
    mark.with_suffix(".new").replace(mark)
    if first_life and cells[0].model.pretrained == "second":
        time.sleep(120)
    for cell in cells:
        (out / cell.folder).mkdir(parents=True)
        (out / cell.folder / COMPLETE).write_text("{}")
    return {cells[0].label: "cannot be answered"} if cells[0].model.pretrained == "first" else {}
