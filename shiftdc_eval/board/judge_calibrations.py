"""Agreement of judges with human labels: `judges/` on the board, one file per judge and set of labels.

A calibration belongs to a judge's identity, not to a cell: it is shown with every result of that judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from shiftdc_eval.board.cell import slug
from shiftdc_eval.board.cell_files import Shelf
from shiftdc_eval.core.json_files import parse, read_text
from shiftdc_eval.core.records import Calibration, LabelAgreement, Rate

ATTACHED = ("human_agreement_*.json", "calibration_*.json")
"""Files that `shiftdc-eval judge human-agreement --attach RUN` writes into a results folder, and wrote before."""
HELD_OUT = "out"
"""The `sample` of a calibration that the board shows: in-sample agreement says nothing of new answers."""
POSITIVE = {"refusal": "refusals", "harm": "harmful answers"}


def calibration_name(found: Calibration) -> str:
    """File name of a calibration: judge, its identity, the labels."""
    return f"{slug(found.judge)}-{found.fingerprint[:8]}-{found.labels_sha256[:8]}.json"


CALIBRATIONS = Shelf("judges", Calibration, calibration_name, "judge, identity and labels")


def attached(folders: Sequence[Path]) -> dict[str, Calibration]:
    """The calibrations attached to results folders, by file name.

    Raises:
        RecordError: a file is invalid.
    """
    paths = sorted({path for folder in folders if folder.is_dir() for path in _attached(folder)})
    read = [parse(read_text(path), Calibration, path) for path in paths]
    return {calibration_name(found): found for found in read}


def only_calibrations(folder: Path) -> bool:
    """True for a folder that holds calibrations and no samples."""
    return any(_attached(folder)) and not any(folder.rglob("*_samples_*.jsonl"))


def _attached(folder: Path) -> list[Path]:
    return [path for pattern in ATTACHED for path in folder.rglob(pattern)]


def against_people(judge: str, calibrations: Iterable[Calibration]) -> list[str]:
    """Held-out agreement of a judge with human labels, one sentence per set of labels.

    Args:
        judge: name and first digits of the identity, as in `Measure.judge`.
    """
    identity = judge.rpartition("@")[2]
    return [
        _sentence(found)
        for found in calibrations
        if found.fingerprint[:8] == identity and found.sample == HELD_OUT
    ] or ["No held-out comparison of this judge with human labels: how far its verdicts hold is not known."]


def _sentence(found: Calibration) -> str:
    whole = found.agreements[-1]
    data = found.data or ", ".join(part.source for part in found.agreements[:-1] or [whole])
    unscored = f", {whole.unscored} unscored" if whole.unscored else ""
    rates = (whole.false_negative_rate.value, whole.false_positive_rate.value)
    missed, alarms = ("n/a" if rate is None else f"{100 * rate:.1f} %" for rate in rates)
    across = ", labels of another question" if found.across_kinds else ""
    return (
        f"Judge against human labels, held out ({data} {found.labels_sha256[:8]}{across}; {whole.scored} answers to "
        f"{whole.prompts} prompts{unscored}): "
        f"{_shown(whole.accuracy, 100, 1)} % equal, κ {_shown(whole.kappa, 1, 2)}, "
        f"misses {missed} of {POSITIVE[found.kind]}, takes {alarms} of other answers for one"
        f"{_spread('model', found.by_model)}{_spread('language', found.by_language)}."
    )


def _spread(what: str, parts: Sequence[LabelAgreement]) -> str:
    """Range of kappa over models or languages; nothing for one of them."""
    values = [part.kappa.value for part in parts if part.kappa.value is not None]
    if len(values) < 2:
        return ""
    return f"; by {what} κ {min(values):.2f} to {max(values):.2f} ({len(parts)})"


def _shown(rate: Rate, factor: float, digits: int) -> str:
    if rate.value is None:
        return "n/a"
    text = f"{rate.value * factor:.{digits}f}"
    if rate.low is None or rate.high is None:
        return text
    return f"{text} ({rate.low * factor:.{digits}f} to {rate.high * factor:.{digits}f})"
