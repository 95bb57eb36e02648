"""Fixtures of the board's tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.hookimpl(tryfirst=True)  # before `-m browser` selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that open a browser."""
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """Where a board is made."""
    return tmp_path / "leaderboards"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Where made results lie."""
    return tmp_path / "results"


@pytest.fixture(autouse=True)
def no_task_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """`view` finds images in files alone: loading tasks takes ten seconds."""
    monkeypatch.setattr("shiftdc_eval.analysis.view.drawn", lambda task: ())
