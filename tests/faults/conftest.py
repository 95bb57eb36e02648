"""Fixtures of the tests of faults."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_task_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """`view` finds images in files alone: loading tasks takes ten seconds."""
    monkeypatch.setattr("shiftdc_eval.analysis.view.drawn", lambda task: ())
