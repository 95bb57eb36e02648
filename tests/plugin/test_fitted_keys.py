"""What is fitted on a contrast set is part of a journal's key, and how well it was measured is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hand_made_requests import through_the_adapter
from PIL import Image

from shiftdc_eval.backbones import Backbone, Chat, ModelSpec, load_backbone
from shiftdc_eval.defenses import DEFENSES, Settings
from shiftdc_eval.defenses.contrast import load_contrast
from shiftdc_eval.defenses.directions import fit
from shiftdc_eval.defenses.none import NoDefense

CHATS = [Chat.ask("What is shown?", [Image.new("RGB", (30, 30), "red")])]


@pytest.fixture(scope="module")
def backbone(tiny_llava: Path) -> Backbone:
    return load_backbone(ModelSpec(str(tiny_llava), device="cpu"))


def contrast(path: Path, word: str) -> Path:
    pairs = [{"id": str(n), "unsafe": f"{word} bad {n}", "safe": f"{word} good {n}"} for n in range(20)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def journals(folder: Path) -> int:
    return len(list(folder.glob("journal-*.jsonl")))


@pytest.mark.parametrize(
    ("defense", "settings", "files"),
    [
        ("recentred_refusal", {"layer": 1}, 2),
        ("astra", {"alpha": 1.0}, 2),
        ("astra", {"alpha": 1.0, "centre": "zero"}, 1),
        ("refusal_direction", {}, 2),
        ("refusal_direction", {"layers": 2}, 1),
        ("shiftdc", {"caption_max_new_tokens": 2}, 1),
    ],
)
def test_beside_a_direction_from_a_file_the_contrast_set_counts_where_it_is_used(
    backbone: Backbone, tmp_path: Path, defense: str, settings: dict[str, Any], files: int
) -> None:
    one, other = contrast(tmp_path / "one.jsonl", "some"), contrast(tmp_path / "other.jsonl", "any")
    made = tmp_path / "direction.safetensors"
    fit(backbone, load_contrast(one)).save(made)
    for path in (one, other):
        through_the_adapter(
            backbone, CHATS, tmp_path / "j", defense=defense, direction=made, contrast=path, **settings
        )
    assert journals(tmp_path / "j") == files
    records = [json.loads(path.read_text()) for path in (tmp_path / "j").glob("run-*.json")]
    named = {record["settings"].get("contrast_sha256") for record in records}
    assert named == ({None, load_contrast(other).sha256} if files == 2 else {None})


class Measuring(Settings):
    """Chooses a strength and measures its gain."""

    name: ClassVar[str] = "measuring"
    alpha: ClassVar[float] = 1.0
    gain: ClassVar[float] = 0.1

    def fitted(self, tools: Any) -> dict[str, Any]:
        return {"alpha": type(self).alpha, "fitted": {"gain": type(self).gain, "texts": 4}}

    answer = NoDefense.answer


def test_a_measure_that_differs_in_its_last_digits_finds_the_same_journal(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DEFENSES, "measuring", Measuring)
    for alpha, gain, files in ((1.0, 0.1, 1), (1.0, 0.1000001, 1), (2.0, 0.1, 2)):
        monkeypatch.setattr(Measuring, "alpha", alpha)
        monkeypatch.setattr(Measuring, "gain", gain)
        through_the_adapter(backbone, CHATS, tmp_path, defense="measuring")
        assert journals(tmp_path) == files
