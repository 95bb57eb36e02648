"""Answers of a defense that was wrong are never found again, and those of the others still are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shiftdc_eval.backbones import Backbone, ModelSpec, load_backbone
from shiftdc_eval.core.records import ANSWER_VERSION
from shiftdc_eval.defenses import DEFENSES

CELLS = Path(__file__).resolve().parents[2] / "leaderboards" / "cells"
PUBLISHED = {"variant": "official", "preset": "published"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("cmrm", {}),
        ("coca", {}),
        ("refusal_direction", {}),
        ("ecso", {}),
        ("adashield_s", {}),
        ("shiftdc", PUBLISHED),
        ("shiftdc", {"variant": "official", "bare_text_prompt": True}),
    ],
)
def test_a_defense_that_was_corrected_has_another_answer_version(
    name: str, settings: dict[str, object]
) -> None:
    assert DEFENSES[name](**settings).answer_version == ANSWER_VERSION + 1


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("none", {}),
        ("shiftdc", {}),
        ("shiftdc", {"variant": "paper"}),
        ("shiftdc", {"variant": "official", "expert_prompt": True}),
        ("random", {}),
        ("ecso_caption", {}),
    ],
)
def test_a_defense_that_was_right_keeps_its_version(name: str, settings: dict[str, object]) -> None:
    assert DEFENSES[name](**settings).answer_version == ANSWER_VERSION


def test_the_settings_of_the_boards_cells_are_resolved_as_they_were() -> None:
    """Resolved settings are part of an answer's key: another default or field would lose finished answers."""
    backbone: Backbone = load_backbone(ModelSpec("toy", device="cpu"))
    seen = set()
    for path in sorted((CELLS / "toy_figstep" / "toy").glob("*.json")):
        defense = json.loads(path.read_text(encoding="utf-8"))["defense"]
        settings = defense.get("settings", {})
        assert DEFENSES[defense["name"]](**settings).resolved(backbone) == settings, path.name
        seen.add(defense["name"])
    assert len(seen) == 9
