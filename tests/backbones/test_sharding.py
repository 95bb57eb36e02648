"""A model spread over two places (the CPU and offloaded layers on disk) answers as the same model in one.

Where there is no second device, torch's fake tensors stand for two of them: they have a device and no values, and
an operation on tensors of two devices fails as it does on GPUs.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from fixed_directions import FixedDirections
from PIL import Image
from tiny_families import HIDDEN, LAYERS, save_family
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoProcessor, LlavaNextForConditionalGeneration

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.backbones.transformers_backbone import TransformersBackbone
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses import Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.defenses.shiftdc import ShiftDC
from shiftdc_eval.steering import (
    AdaptiveShift,
    OnlineCalibration,
    SafetyDirection,
    Shift,
    edit_last_token,
    record_last_token,
)

SETTINGS = GenerationSettings(max_new_tokens=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("llava_next_34b", tmp_path_factory.mktemp("sharded") / "llava-next")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Backbone:
    return load_backbone(ModelSpec(str(folder), device="cpu"))


@pytest.fixture(scope="module")
def sharded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    places: dict[str, str] = {
        "model.vision_tower": "disk",
        "model.multi_modal_projector": "cpu",
        "model.image_newline": "cpu",
        "model.language_model.embed_tokens": "cpu",
        "model.language_model.rotary_emb": "cpu",
        "model.language_model.norm": "disk",
        "lm_head": "cpu",
    }
    places |= {f"model.language_model.layers.{i}": "cpu" if i < 2 else "disk" for i in range(LAYERS)}
    model = LlavaNextForConditionalGeneration.from_pretrained(
        folder,
        dtype=torch.float32,
        device_map=places,
        offload_folder=str(tmp_path_factory.mktemp("offloaded")),
    )
    return TransformersBackbone(model, AutoProcessor.from_pretrained(folder), name="sharded", revision="r")


def chats() -> list[Chat]:
    return [
        Chat.ask("hello", [Image.new("RGB", (40, 30), "red")]),
        Chat.ask("describe the image " * 4, [Image.new("RGB", (60, 90), "blue")]),
        Chat.ask("without an image"),
    ]


def test_half_of_the_layers_really_lie_elsewhere(sharded: Backbone) -> None:
    where = [next(layer.parameters()).device.type for layer in sharded.layers]
    assert where == ["cpu", "cpu", "meta", "meta"]
    assert sharded.device == torch.device("cpu")
    assert sharded.dtype == torch.float32


def test_activations_and_answers_are_those_of_the_whole_model(whole: Backbone, sharded: Backbone) -> None:
    assert torch.equal(whole.last_token_activations(chats()), sharded.last_token_activations(chats()))
    wanted = [answer.ids for answer in whole.generate(chats(), SETTINGS)]
    assert [answer.ids for answer in sharded.generate(chats(), SETTINGS)] == wanted


def test_layers_that_lie_elsewhere_are_calibrated_too(whole: Backbone, sharded: Backbone) -> None:
    torch.manual_seed(0)
    direction = SafetyDirection(torch.randn(LAYERS, HIDDEN), "tiny", "r", "t", "c", 1, 1)
    answers = []
    for backbone in (whole, sharded):
        tools = Tools(backbone, CaptionStore(None), FixedDirections(direction))
        requests = [Request(chat) for chat in chats()]
        answers.append([a.text for a in ShiftDC(caption_max_new_tokens=4).answer(tools, requests, SETTINGS)])
    assert answers[0] == answers[1]
    assert answers[0] != [answer.text for answer in whole.generate(chats(), SETTINGS)]


def test_a_device_map_can_be_asked_for_when_loading(folder: Path, whole: Backbone) -> None:
    mapped = load_backbone(ModelSpec(str(folder), device_map="auto", dtype="float32"))
    wanted = [answer.ids for answer in whole.generate(chats(), SETTINGS)]
    assert [answer.ids for answer in mapped.generate(chats(), SETTINGS)] == wanted


def test_an_unknown_device_map_names_the_known_ones(folder: Path) -> None:
    with pytest.raises(ConfigError, match="device_map=both is unknown; use auto, balanced"):
        load_backbone(ModelSpec(str(folder), device_map="both"))


@pytest.fixture
def two_devices() -> Iterator[None]:
    with FakeTensorMode():
        here, there = torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")
        with pytest.raises(RuntimeError, match="two devices"):
            here + there
        yield


def placed(module: nn.Module, device: str) -> Any:
    """A module without weights that takes its input to a device, with accelerate's own hook."""
    return add_hook_to_module(module, AlignDevicesHook(execution_device=device, io_same_device=False))


@pytest.mark.parametrize("kind", ["online", "shift", "adaptive"])
def test_edits_and_recordings_follow_their_layer_to_another_device(kind: str, two_devices: None) -> None:
    layers = [placed(nn.Tanh(), f"cuda:{i // 2}") for i in range(LAYERS)]
    text_only, direction = torch.ones(3, HIDDEN, device="cuda:0"), torch.ones(HIDDEN)
    edit = {
        "online": OnlineCalibration(text_only, direction),
        "shift": Shift(text_only),
        "adaptive": AdaptiveShift(direction, 0.0),
    }[kind]
    x = torch.ones(3, 5, HIDDEN, device="cuda:0")
    with (
        edit_last_token(layers, dict.fromkeys(range(LAYERS), edit), 4) as made,
        record_last_token(layers, 4) as seen,
    ):
        for layer in layers:
            x = layer(x)
    assert made == dict.fromkeys(range(LAYERS), 1)
    assert [seen[i].device.index for i in range(LAYERS)] == [0, 0, 1, 1]
    assert x.device.index == 1


def test_the_final_norm_gives_back_what_it_took_to_another_device(two_devices: None) -> None:
    norm = placed(nn.RMSNorm(HIDDEN, elementwise_affine=False), "cuda:1")
    decoder = SimpleNamespace(norm=norm)
    held = cast(Backbone, SimpleNamespace(model=SimpleNamespace(get_decoder=lambda: decoder)))
    activations = torch.ones(3, LAYERS, HIDDEN, device="cuda:0")
    assert norm(activations).device.index == 1
    normed = TransformersBackbone.final_norm(held, activations[:, -1:])
    assert torch.cat([activations[:, :-1], normed], dim=1).device.index == 0
