"""What is recorded is what the model computes, each shard once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from few_pairs import few
from PIL import Image

from shiftdc_eval.analysis import recording
from shiftdc_eval.analysis.items import Item, neutral
from shiftdc_eval.analysis.recorder import calibrated
from shiftdc_eval.analysis.recording import Plan, record, tools_for
from shiftdc_eval.analysis.recording_file import ItemRecord, Recording
from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.core.errors import ConfigError, ModelError
from shiftdc_eval.defenses import Request, Tools
from shiftdc_eval.defenses.adashield import AdaShieldS
from shiftdc_eval.defenses.cmrm import Cmrm
from shiftdc_eval.defenses.directions import Directions
from shiftdc_eval.defenses.shiftdc import ShiftDC, counterpart
from shiftdc_eval.steering import safety_coordinate

SHORT = GenerationSettings(max_new_tokens=4)


@pytest.fixture(scope="module")
def backbone(tiny_llava: Path) -> Backbone:
    return load_backbone(ModelSpec(str(tiny_llava), dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def directions(backbone: Backbone) -> Directions:
    """Fitted once: they keep what they have made."""
    return Directions(backbone, contrast=few())


@pytest.fixture
def tools(backbone: Backbone, directions: Directions) -> Tools:
    return tools_for(backbone, directions, None)


def item(at: int) -> Item:
    kind = "harmful" if at % 2 == 0 else "benign"
    name = ItemRecord(id=f"made:{at}", task="made", role=kind, question=f"q{at}", scenario="a")
    return Item(
        name, f"Answer number {at}.", f"Number {at}?", lambda: Image.new("RGB", (28, 28), (9 * at, 0, 99))
    )


def plan(**changes: Any) -> Plan:
    given: dict[str, Any] = {
        "items": [item(at) for at in range(6)],
        "batch_size": 2,
        "max_new_tokens": 4,
        "caption_max_new_tokens": 4,
    }
    return Plan(**(given | changes))


def chats() -> list[Chat]:
    return [Chat.ask(one.prompt, [one.image()]) for one in (item(at) for at in range(3))]


def test_after_online_calibration_the_coordinate_is_the_text_only_one(tools: Tools, tmp_path: Path) -> None:
    record(plan(), tools, tmp_path)
    direction = tools.direction().vectors
    found = Recording(tmp_path)
    for layer in range(4):
        activations = {name: torch.tensor(x) for name, x in found.layer(layer).items()}
        text, image, online = (
            safety_coordinate(activations[name], direction[layer])
            for name in ("text_caption", "image", "image_online")
        )
        if layer < 2:
            assert torch.equal(activations["image"], activations["image_online"])
        else:
            assert torch.allclose(online, text, atol=5e-3)  # 16 bit on disk
            assert not torch.allclose(image, text, atol=5e-3)


def test_what_is_recorded_of_a_defense_is_the_pass_that_answers(backbone: Backbone, tools: Tools) -> None:
    defense = ShiftDC(layers="1-1", caption_max_new_tokens=4)
    activations, answers = calibrated(tools, defense, chats(), SHORT, answers=True)
    plain = defense.answer(tools, [Request(chat) for chat in chats()], SHORT)
    assert [one.text for one in answers] == [one.text for one in plain]
    before = backbone.last_token_activations(chats())
    assert torch.equal(activations[:, 0], before[:, 0])
    text = backbone.last_token_activations(
        [counterpart(chat, one.extra["caption"]) for chat, one in zip(chats(), plain, strict=True)]
    )
    direction = tools.direction().vectors[1]
    shift = before[:, 1] - text[:, 1]
    along = safety_coordinate(shift, direction)[:, None] * direction
    assert torch.allclose(activations[:, 1], before[:, 1] - along, atol=1e-5)
    assert not torch.allclose(activations[:, 3], before[:, 3], atol=1e-5)


def test_cmrm_is_recorded_too_and_a_defense_without_edits_is_refused(tools: Tools) -> None:
    activations, _ = calibrated(tools, Cmrm(layers="0-0"), chats(), SHORT, answers=False)
    blank = [chat.with_images([neutral(chat.images[0], "blank")]) for chat in chats()]
    alone = [chat.without_images() for chat in chats()]
    shown, white, words = (
        tools.backbone.last_token_activations(asked, [0])[:, 0] for asked in (chats(), blank, alone)
    )
    assert torch.allclose(activations[:, 0], shown - (white - words), atol=1e-5)
    with pytest.raises(ModelError, match="adashield_s edits no activation"):
        calibrated(tools, AdaShieldS(), chats(), SHORT, answers=False)


def test_a_killed_recording_goes_on_where_it_stopped(
    backbone: Backbone, tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, real, calls = plan(), recording._shard, []

    def dies_at_the_second(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(recording, "_shard", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        record(whole, tools, tmp_path / "killed")
    first = (tmp_path / "killed" / "shard-00000.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(recording, "_shard", real)
    record(whole, tools, tmp_path / "killed")
    record(whole, tools, tmp_path / "straight")
    assert (tmp_path / "killed" / "shard-00000.safetensors").stat().st_mtime_ns == first
    for layer in range(4):
        ours, theirs = (Recording(tmp_path / name).layer(layer) for name in ("killed", "straight"))
        assert all((ours[name] == theirs[name]).all() for name in ours)
    passes = backbone.forward_passes
    record(whole, tools, tmp_path / "killed")
    assert backbone.forward_passes == passes


def test_the_plan_counts_its_prefills(backbone: Backbone, tools: Tools, tmp_path: Path) -> None:
    once = plan(batch_size=1, answers=False, items=[item(0), item(1)])
    tools.direction()
    passes = backbone.forward_passes
    record(once, tools, tmp_path)
    captions = tools.captions.made
    assert captions == 2
    assert backbone.forward_passes - passes == once.passes() + captions


def test_answers_and_captions_stand_beside_the_activations(tools: Tools, tmp_path: Path) -> None:
    record(plan(variants=("online",)), tools, tmp_path)
    rows = Recording(tmp_path).answers()
    assert set(rows[0]["answers"]) == {"text", "image", "image_online"}
    assert all(isinstance(row["caption"], str) for row in rows)


def test_texts_with_the_datas_own_captions_are_recorded_where_every_item_has_one(
    backbone: Backbone, tools: Tools, tmp_path: Path
) -> None:
    items = [dataclasses.replace(item(at), image_text=f"a boat {at}") for at in range(2)]
    assert "text_reference" not in plan(items=[*items, item(2)]).conditions
    record(plan(items=items, answers=False, variants=()), tools, tmp_path)
    asked = [counterpart(Chat.ask(one.prompt), str(one.image_text)) for one in items]
    found = torch.tensor(Recording(tmp_path).layer(3)["text_reference"])
    there = backbone.last_token_activations(asked, [3])[:, 0]
    assert torch.allclose(found, there, rtol=1e-3, atol=1e-3)  # 16 bit on disk


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "Other words."},
        {"request": "Other?"},
        {"image": lambda: Image.new("RGB", (28, 28), "red")},
        {"image_text": "a boat"},
    ],
)
def test_other_data_under_the_same_ids_is_another_recording(
    change: dict[str, Any], tools: Tools, tmp_path: Path
) -> None:
    items = [item(0), item(1)]
    record(plan(items=items, answers=False, variants=()), tools, tmp_path)
    record(plan(items=items, answers=False, variants=()), tools, tmp_path)
    changed = [items[0], dataclasses.replace(items[1], **change)]
    with pytest.raises(ConfigError, match="differs in inputs_sha256; give another folder"):
        record(plan(items=changed, answers=False, variants=()), tools, tmp_path)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ConfigError, match="--variants onlin: unknown; choose from online"):
        plan(variants=("onlin",))


def test_control_images_have_the_size_of_the_image_and_are_drawn_once() -> None:
    image = Image.new("RGB", (20, 10))
    assert neutral(image, "blank").getcolors() == [(200, (255, 255, 255))]
    assert neutral(image, "noise").size == (20, 10)
    assert neutral(image, "noise").tobytes() == neutral(image, "noise").tobytes()
