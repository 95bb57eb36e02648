"""Verifies lmms-eval's output files: it only logs a warning when saving fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path

from shiftdc_eval.core.errors import RecordError


def require_whole(results: Path, samples: Mapping[Path, int]) -> None:
    """Read the files of one run back and count their rows.

    Args:
        results: the results file.
        samples: samples file -> rows it has to have.

    Raises:
        RecordError: one is missing, cut or empty; names it.
    """
    try:
        if not isinstance(json.loads(results.read_text(encoding="utf-8")), dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise RecordError(f"{results} is not whole ({_reason(error)}); is the disk full?") from error
    for path, count in samples.items():
        rows = 0
        try:
            # as bytes: an answer may hold separators that a text file takes for the end of a row
            with path.open("rb") as file:
                for line in file:
                    rows += 1
                    if not line.endswith(b"\n"):
                        raise ValueError("its last row is cut")
                    json.loads(line)
        except (OSError, ValueError) as error:
            raise RecordError(
                f"{path} is not whole ({_reason(error)}, row {rows} of {count}); is the disk full?"
            ) from error
        if rows != count:
            raise RecordError(f"{path} has {rows} rows where {count} were answered; is the disk full?")


def has_answers(journal: Path) -> bool:
    """Whether a journal, one of its processes' at least, holds more than the line that names its configuration."""
    for path in journal.parent.glob(f"{journal.name.partition('.rank')[0]}.rank*.jsonl"):
        with suppress(OSError), path.open("rb") as file:
            if sum(1 for line in islice(file, 2) if line.endswith(b"\n")) == 2:
                return True
    return False


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
