"""What is wrong with a defense is known without weights; stored files are checked as they are read."""

import dataclasses
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from instant_backbone import Model
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from shiftdc_eval.backbones import Chat, GenerationSettings, ModelSpec
from shiftdc_eval.core.errors import ConfigError, DirectionError, JournalError
from shiftdc_eval.defenses.caption_store import STORE_VERSION, CaptionStore
from shiftdc_eval.defenses.preflight import problems
from shiftdc_eval.plugin.adapter import ShiftDCVlm
from shiftdc_eval.plugin.preflight import defense_problems
from shiftdc_eval.steering import SafetyDirection


def direction(layers: int, hidden: int = 32) -> SafetyDirection:
    return SafetyDirection(torch.ones(layers, hidden), "m", "r", "t", "c", 8, 8, "fit")


def test_all_that_is_wrong_is_said_at_once_without_a_weight(tiny_llava: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_llava.iterdir():
        if path.suffix != ".safetensors":
            (model / path.name).write_bytes(path.read_bytes())
    direction(5).save(tmp_path / "other.safetensors")
    (tmp_path / "contrast.jsonl").write_text('{"unsafe": "a"}\n')
    given = {
        "pretrained": str(model),
        "direction": tmp_path / "other.safetensors",
        "contrast": tmp_path / "contrast.jsonl",
    }
    said = list(defense_problems({**given, "defense": "shiftdc", "layers": "2-9"}))
    assert [line.split(":")[0] for line in said] == [
        f"{tmp_path}/contrast.jsonl line 1, field 'safe' is missing; each pair needs unsafe and safe",
        f"the safety direction {tmp_path}/other.safetensors has 5 layers x 32, {model} has 4 x 32",
        "layers=2-9 does not fit a model with decoder layers 0 to 3",
    ]
    said = list(problems("shiftdc", {"alpha": "much", "caption_max_new_tokens": 0}))
    assert [line.split(":")[0] for line in said] == [
        "model argument alpha=much",
        "model argument caption_max_new_tokens=0",
    ]
    published = {"variant": "official", "preset": "published"}
    direction(4).save(tmp_path / "fits.safetensors")
    (line,) = problems("shiftdc", published, direction=tmp_path / "fits.safetensors")
    assert "direction= cannot be combined with post_norm_last" in line
    (model / "contrast.jsonl").write_text("no json\n")
    (line,) = problems("none", {}, model=ModelSpec(str(model)))
    assert "contrast.jsonl line 1 is not JSON" in line
    assert list(problems("shiftdc", {"layers": "1-2"}, model=ModelSpec("toy"))) == []


def test_a_file_or_setting_that_a_defense_does_not_look_at_is_refused(tmp_path: Path) -> None:
    file, texts = tmp_path / "d.safetensors", tmp_path / "c.jsonl"
    direction(4).save(file)
    pairs = [json.dumps({"unsafe": f"first {number}", "safe": f"second {number}"}) for number in range(8)]
    texts.write_text("\n".join(pairs), encoding="utf-8")

    def refused(name: str, **settings: Any) -> list[str]:
        said = [
            list(problems(name, settings, direction=file)),
            list(problems(name, settings, contrast=texts)),
        ]
        for lines, given in zip(said, ("direction", "contrast"), strict=True):
            assert all(f"{given}=" in line and "has no effect" in line for line in lines)
        return [given for lines, given in zip(said, ("direction", "contrast"), strict=True) if lines]

    both = ["direction", "contrast"]
    assert [refused(name) for name in ("none", "ecso", "cmrm", "coca")] == [both] * 4
    assert refused("cmrm", level="dataset") == ["direction"]
    assert [refused(name) for name in ("shiftdc", "random", "refusal_direction")] == [[]] * 3
    assert [refused(name) for name in ("astra", "recentred_refusal")] == [[]] * 2
    assert refused("shiftdc", layers="auto") == []
    assert refused("subspace") == ["direction"]
    assert refused("astra", vectors="v.pt", reference="r.pt", alpha=1.0) == both


@pytest.mark.parametrize(
    ("defense", "settings"),
    [
        ("shiftdc", {"variant": "official", "steer_decode": True}),
        ("refusal_direction", {"positions": "last"}),
    ],
)
def test_steering_every_step_without_a_cache_is_refused_before_loading(
    defense: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "shiftdc_eval.plugin.adapter.load_backbone", lambda *_: pytest.fail("a model was loaded")
    )
    with pytest.raises(ConfigError, match="needs a KV cache; leave out use_cache=false"):
        ShiftDCVlm(pretrained="toy", defense=defense, use_cache=False, **settings)


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, str]], None]) -> None:
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata=metadata)


CHANGES: dict[str, tuple[Callable[[dict[str, Any], dict[str, str]], Any], str]] = {
    "no revision": (lambda _, m: m.pop("revision"), "it has no revision"),
    "no vectors": (lambda t, _: t.update(other=t.pop("vectors")), "it has no vectors"),
    "count": (lambda _, m: m.update(samples_safe="many"), "its numbers of texts are many and 8"),
    "NaN": (lambda t, _: t["vectors"].fill_(torch.nan), "no finite float32 matrix"),
    "shape": (lambda t, _: t.update(vectors=t["vectors"][0]), "no finite float32 matrix"),
    "dtype": (lambda t, _: t.update(vectors=t["vectors"].half()), "no finite float32 matrix"),
    "changed": (lambda t, _: t["vectors"].fill_(2), "does not match its own hash"),
    "format": (lambda _, m: m.update(format="other-1"), "its format is 'other-1', not shiftdc-direction-1"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_direction_that_is_not_whole_is_refused_with_path_and_remedy(case: str, tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    direction(3).save(path)
    assert SafetyDirection.load(path).layers == 3
    change, said = CHANGES[case]
    rewritten(path, change)
    with pytest.raises(
        DirectionError, match=f"^{path} is not a safety direction .*{said}.*; fit it again with"
    ):
        SafetyDirection.load(path)


def test_a_direction_with_nan_that_was_saved_so_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    dataclasses.replace(direction(3), vectors=torch.full((3, 4), torch.nan)).save(path)
    with pytest.raises(DirectionError, match="no finite float32 matrix"):
        SafetyDirection.load(path)


def test_a_direction_of_a_newer_version_is_refused_as_such(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    direction(3).save(path)
    rewritten(path, lambda _, metadata: metadata.update(format="shiftdc-direction-2"))
    with pytest.raises(DirectionError, match=f"{path} was written by a newer version .*: upgrade"):
        SafetyDirection.load(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("text", b"\xff"),
        ("tokens_in", "many"),
        ("tokens_out", -1),
        ("seconds", -1.0),
        ("seconds", float("inf")),
    ],
)
def test_a_wrong_entry_of_the_caption_store_is_refused(column: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "captions.sqlite"
    chat, settings = Chat.ask("a", [Image.new("RGB", (4, 4))]), GenerationSettings()
    CaptionStore(path).answers(Model(), [chat], settings)  # type: ignore[arg-type]
    with sqlite3.connect(path) as database:
        database.execute(f"UPDATE answers_{STORE_VERSION} SET {column} = ?", (value,))
    with pytest.raises(
        JournalError, match=f"cannot use the caption store {path}: its entry .*; move the file away"
    ):
        CaptionStore(path).answers(Model(), [chat], settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            f"ALTER TABLE answers_{STORE_VERSION} DROP COLUMN seconds",
            "no such column: seconds; move the file away",
        ),
        (
            f"CREATE TABLE answers_{STORE_VERSION + 1} (key TEXT)",
            "was written by a newer version of shiftdc-eval",
        ),
    ],
)
def test_another_table_of_the_caption_store_is_refused(statement: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "captions.sqlite"
    CaptionStore(path)
    with sqlite3.connect(path) as database:
        database.execute(statement)
    with pytest.raises(JournalError, match=said):
        CaptionStore(path).answers(Model(), [Chat.ask("a")], GenerationSettings())  # type: ignore[arg-type]
