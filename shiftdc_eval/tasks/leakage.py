"""Items that a safety direction was fitted on are excluded from the evaluation, or reported as leakage.

`SHIFTDC_CALIBRATION_IDS` names a file of question or item ids, one a line or a JSON list.
`SHIFTDC_CALIBRATION` is `exclude` (the default) or `flag`. The task settings `calibration_ids` and
`calibration` do the same in a yaml file; the variables take precedence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from shiftdc_eval.core.environment import setting
from shiftdc_eval.core.errors import ConfigError, DataError
from shiftdc_eval.tasks.data import read_text
from shiftdc_eval.tasks.example import Example

IDS_VARIABLE = "SHIFTDC_CALIBRATION_IDS"
POLICY_VARIABLE = "SHIFTDC_CALIBRATION"
LEAKAGE = "calibration"
"""Flag of an evaluated item that the direction was fitted on."""


def separate(
    examples: Sequence[Example], settings: Mapping[str, Any]
) -> tuple[list[Example], tuple[str, ...]]:
    """The examples to evaluate, and what the result must say about the calibration items.

    Raises:
        ConfigError: the file or the policy is wrong.
    """
    source = setting(IDS_VARIABLE) or settings.get("calibration_ids")
    if not source:
        return list(examples), ()
    policy = setting(POLICY_VARIABLE) or settings.get("calibration", "exclude")
    if policy not in ("exclude", "flag"):
        raise ConfigError(f"{POLICY_VARIABLE}={policy}: must be exclude or flag")
    ids = read_ids(Path(source))
    digest = hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]
    inside = {example.id for example in examples if ids & {example.id, example.question}}
    if policy == "exclude":
        kept = [example for example in examples if example.id not in inside]
        return kept, (f"excluded: {len(inside)} calibration items (list sha256 {digest})",)
    flagged = [
        replace(example, flags=(*example.flags, LEAKAGE)) if example.id in inside else example
        for example in examples
    ]
    note = f"leakage: {len(inside)} of {len(examples)} items were used for calibration (list sha256 {digest})"
    return flagged, (note,)


def read_ids(path: Path) -> set[str]:
    """Ids of a file: a JSON list, or one a line.

    Raises:
        ConfigError: the file is missing, empty or malformed.
    """
    try:
        text = read_text(path).strip()
    except DataError as error:
        raise ConfigError(f"{IDS_VARIABLE}: {error}") from error
    if text.startswith("["):
        try:
            found = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{IDS_VARIABLE}: {path} is not readable as JSON: {error}") from error
        if not all(isinstance(one, str) for one in found):
            raise ConfigError(f"{IDS_VARIABLE}: {path} must be a list of texts")
        ids = set(found)
    else:
        ids = {line.strip() for line in text.splitlines() if line.strip()}
    if not ids:
        raise ConfigError(f"{IDS_VARIABLE}: {path} holds no ids")
    return ids
