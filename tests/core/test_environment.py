"""Environment variables: one list, one page, and no name in the code that is missing there."""

import re
from pathlib import Path

import pytest

from shiftdc_eval.core.environment import VARIABLES, setting

ROOT = Path(__file__).resolve().parents[2]
FILES = {"SHIFTDC_REVISION"}
"""Names of files, which look like variables."""


def named_in_the_code() -> set[str]:
    found: set[str] = set()
    for folder in ("shiftdc_eval", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            found |= set(re.findall(r"\bSHIFTDC_[A-Z_]+\b", path.read_text(encoding="utf-8")))
    return found - FILES


def test_every_variable_of_the_code_is_listed() -> None:
    assert named_in_the_code() == VARIABLES


def test_every_variable_stands_once_in_the_documentation_with_meaning_and_default() -> None:
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    rows = [row.strip("|").split("|") for row in page.splitlines() if row.startswith("| `")]
    assert sorted(row[0].strip(" `") for row in rows) == sorted(VARIABLES)
    assert all(len(row) == 3 and all(cell.strip() for cell in row) for row in rows)


def test_an_empty_value_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFTDC_RUNS", "  ")
    assert setting("SHIFTDC_RUNS") == ""
    monkeypatch.setenv("SHIFTDC_RUNS", " runs ")
    assert setting("SHIFTDC_RUNS") == "runs"


def test_an_unlisted_variable_is_refused() -> None:
    with pytest.raises(AssertionError, match="SHIFTDC_NONE"):
        setting("SHIFTDC_NONE")
