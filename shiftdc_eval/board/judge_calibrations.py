"""Agreement of judges with human labels: `judges/` on the board, one file per judge and set of labels.

A calibration belongs to a judge's identity, not to a cell: it is shown with every result of that judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from shiftdc_eval.board.cell import slug
from shiftdc_eval.core.errors import RecordError
from shiftdc_eval.core.json_files import parse, read_text
from shiftdc_eval.core.records import Calibration, Rate

FOLDER = "judges"
ATTACHED = "calibration_*.json"
"""Files that `shiftdc-eval judge calibrate --attach RUN` writes into a results folder."""
POSITIVE = {"refusal": "refusals", "harm": "harmful answers"}


def calibration_name(found: Calibration) -> str:
    """File name of a calibration: judge, its identity, the labels."""
    return f"{slug(found.judge)}-{found.fingerprint[:8]}-{found.labels_sha256[:8]}.json"


def calibration_files(board: Path) -> list[Path]:
    """The files of a board, sorted by name."""
    return sorted((board / FOLDER).glob("*.json"), key=lambda path: path.name)


def read_calibration(path: Path) -> Calibration:
    """One file of a board.

    Raises:
        RecordError: it is invalid, or its name is not the one that its content gives.
    """
    found = parse(read_text(path), Calibration, path)
    if path.name != calibration_name(found):
        raise RecordError(
            f"{path}: the content belongs at {FOLDER}/{calibration_name(found)}; "
            "the name is derived from judge, identity and labels"
        )
    return found


def read_calibrations(board: Path) -> dict[str, Calibration]:
    """The calibrations of a board, by file name; raises as `read_calibration`."""
    return {path.name: read_calibration(path) for path in calibration_files(board)}


def attached(folders: Sequence[Path]) -> dict[str, Calibration]:
    """The calibrations attached to results folders, by file name.

    Raises:
        RecordError: a file is invalid.
    """
    paths = sorted({path for folder in folders if folder.is_dir() for path in folder.rglob(ATTACHED)})
    read = [parse(read_text(path), Calibration, path) for path in paths]
    return {calibration_name(found): found for found in read}


def only_calibrations(folder: Path) -> bool:
    """True for a folder that holds calibrations and no samples."""
    return any(folder.rglob(ATTACHED)) and not any(folder.rglob("*_samples_*.jsonl"))


def against_people(judge: str, calibrations: Iterable[Calibration]) -> list[str]:
    """Agreement of a judge with human labels, one sentence per set of labels.

    Args:
        judge: name and first digits of the identity, as in `Measure.judge`.
    """
    identity = judge.rpartition("@")[2]
    said = [_sentence(found) for found in calibrations if found.fingerprint[:8] == identity]
    return said or ["Judge not calibrated against human labels."]


def _sentence(found: Calibration) -> str:
    whole = found.agreements[-1]
    sources = ", ".join(part.source for part in found.agreements[:-1] or [whole])
    unscored = f", {whole.unscored} unscored" if whole.unscored else ""
    rates = (whole.false_negative_rate.value, whole.false_positive_rate.value)
    missed, alarms = ("–" if rate is None else f"{100 * rate:.1f} %" for rate in rates)
    return (
        f"Judge against human labels ({sources}; {whole.scored} answers to {whole.prompts} prompts{unscored}): "
        f"{_shown(whole.accuracy, 100, 1)} % equal, κ {_shown(whole.kappa, 1, 2)}, "
        f"misses {missed} of {POSITIVE[found.kind]}, takes {alarms} of other answers for one."
    )


def _shown(rate: Rate, factor: float, digits: int) -> str:
    if rate.value is None:
        return "–"
    text = f"{rate.value * factor:.{digits}f}"
    if rate.low is None or rate.high is None:
        return text
    return f"{text} ({rate.low * factor:.{digits}f} to {rate.high * factor:.{digits}f})"
