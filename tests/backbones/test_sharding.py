"""A model spread over two places (the CPU and offloaded layers on disk) answers as the same model in one."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_families import HIDDEN, LAYERS, save_family
from transformers import AutoProcessor, LlavaNextForConditionalGeneration

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.captions import CaptionStore
from shiftdc_eval.defenses import Request, Tools
from shiftdc_eval.defenses.shiftdc import ShiftDC
from shiftdc_eval.errors import ConfigError
from shiftdc_eval.steering import SafetyDirection

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
    return Backbone(model, AutoProcessor.from_pretrained(folder), name="sharded", revision="r")


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
        tools = Tools(backbone, CaptionStore(None), lambda *, post_norm_last=False: direction)
        requests = [Request(chat) for chat in chats()]
        answers.append([a.text for a in ShiftDC(caption_max_new_tokens=4).answer(tools, requests, SETTINGS)])
    assert answers[0] == answers[1]
    assert answers[0] != [answer.text for answer in whole.generate(chats(), SETTINGS)]


def test_a_device_map_can_be_asked_for_when_loading(folder: Path, whole: Backbone) -> None:
    mapped = load_backbone(ModelSpec(str(folder), device="cpu", device_map="auto", dtype="float32"))
    wanted = [answer.ids for answer in whole.generate(chats(), SETTINGS)]
    assert [answer.ids for answer in mapped.generate(chats(), SETTINGS)] == wanted


def test_an_unknown_device_map_names_the_known_ones(folder: Path) -> None:
    with pytest.raises(ConfigError, match="device_map=both is unknown; use auto, balanced"):
        load_backbone(ModelSpec(str(folder), device="cpu", device_map="both"))
