"""MiniGPT-4, checked against an independent plain implementation on tiny weights, not on the published ones."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
pytest.importorskip("sentencepiece", reason="the tiny published tokenizer is trained with sentencepiece")

import plain
import published
import sentencepiece

from shiftdc_eval import cli
from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, Turn, load_backbone
from shiftdc_eval.captions import CaptionStore
from shiftdc_eval.defenses import DEFENSES, Request, Tools
from shiftdc_eval.steering import SafetyDirection

Parts = tuple[Path, Path, Path, published.Weights, published.Weights, published.Weights]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return published.minigpt4(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def converted(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("converted") / "minigpt4"
    arguments = ["convert", "minigpt4", str(parts[0]), str(destination)]
    assert cli.main([*arguments, "--vicuna", str(parts[1]), "--blip2", str(parts[2])]) == 0
    return destination


@pytest.fixture(scope="module")
def backbone(converted: Path) -> Backbone:
    return load_backbone(ModelSpec(str(converted), device="cpu"))


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8))


def test_every_published_key_is_used_or_listed_with_a_reason(parts: Parts, converted: Path) -> None:
    report = json.loads((converted / "conversion.json").read_text())
    _, _, _, linear, language, eyes = parts
    assert report["used"] + len(report["unused"]) == len(linear) + len(language) + len(eyes) + 2
    kinds = {key.split(".")[-1] if "inv_freq" in key else key: why for key, why in report["unused"].items()}
    assert kinds == {
        "inv_freq": "computed from the configuration",
        "language_model.shared.weight": kinds["language_projection.weight"],
        "language_projection.weight": "BLIP-2's own language side; MiniGPT-4 has Vicuna and a linear layer of its own",
    }


def test_the_prompt_is_the_authors(backbone: Backbone) -> None:
    def rendered(chat: Chat) -> str:
        return str(
            backbone.processor.apply_chat_template(
                chat.messages(), tokenize=False, add_generation_prompt=True
            )
        )

    assert rendered(Chat.ask("hello", [picture()])) == "###Human: <Img><image></Img> hello ###Assistant:"
    assert rendered(Chat.ask("hello")) == "###Human: hello ###Assistant:"
    two = Chat((Turn("user", ("a",)), Turn("assistant", ("b",)), Turn("user", ("c",))))
    assert rendered(two) == "###Human: a ###Assistant: b###Human: c ###Assistant:"


def test_the_prompt_has_the_token_ids_of_the_original_rule(backbone: Backbone, parts: Parts) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(parts[1] / "tokenizer.model"))
    ids = backbone.encode([Chat.ask("the image", [picture()])]).inputs["input_ids"][0].tolist()
    image = [backbone.model.config.image_token_id] * published.QUERIES
    assert ids == [
        1,
        *model.encode("###Human: <Img>"),
        *image,
        *model.encode("</Img> the image ###Assistant:"),
    ]


def test_logits_equal_an_independent_plain_implementation(backbone: Backbone, parts: Parts) -> None:
    _, _, _, linear, language, eyes = parts
    encoded = backbone.encode([Chat.ask("the image shows", [picture()])])
    with torch.no_grad():
        got = backbone.model(**encoded.inputs).logits[0]
    seen = plain.eva_features(
        plain.sub(eyes, "vision_model."),
        encoded.inputs["pixel_values"][0],
        heads=published.V_HEADS,
        blocks=published.V_LAYERS,
    )
    asked = plain.qformer(
        plain.sub(eyes, "qformer."),
        eyes["query_tokens"][0],
        seen,
        heads=published.Q_HEADS,
        layers=published.Q_LAYERS,
        every=2,
    )
    image = plain.linear(asked, plain.sub(linear, ""), "llama_proj")
    ids = encoded.inputs["input_ids"][0]
    places = ids == backbone.model.config.image_token_id
    w = plain.sub(language, "model.")
    embedded = torch.zeros(len(ids), published.WIDTH, dtype=torch.float64)
    embedded[~places] = w["embed_tokens.weight"][ids[~places]]
    embedded[places] = image
    wanted = plain.llama_logits(
        w,
        embedded,
        language["lm_head.weight"],
        layers=published.LAYERS,
        heads=published.HEADS,
        key_value_heads=published.KEY_VALUE_HEADS,
        theta=10_000.0,
        eps=published.EPS,
    )
    torch.testing.assert_close(got[:, :-1].double(), wanted, rtol=1e-4, atol=1e-4)


def test_pixels_are_resized_to_the_square_without_cropping(backbone: Backbone) -> None:
    pixels = backbone.encode([Chat.ask("hello", [Image.new("RGB", (90, 30), "white")])]).inputs[
        "pixel_values"
    ]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    spread = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    assert pixels.shape == (1, 3, published.SIDE, published.SIDE)
    torch.testing.assert_close(pixels[0, :, 3, 5], (1 - mean) / spread, rtol=1e-4, atol=1e-4)


def test_an_answer_ends_before_the_stop_string(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert backbone.model.generation_config.stop_strings == ["###"]
    chat, settings = Chat.ask("hello", [picture()]), GenerationSettings(max_new_tokens=12)
    monkeypatch.setattr(backbone.model.generation_config, "stop_strings", None)
    whole = backbone.generate([chat], settings)[0]
    stop = whole.text[4:6]
    monkeypatch.setattr(backbone.model.generation_config, "stop_strings", [stop])
    shorter = backbone.generate([chat], settings)[0]
    assert shorter.text == whole.text[: whole.text.index(stop)]
    assert shorter.tokens_out < whole.tokens_out


def test_batches_and_defenses_work_as_for_every_family(backbone: Backbone) -> None:
    chats = [Chat.ask("hello", [picture()]), Chat.ask("the image " * 6, [picture()]), Chat.ask("no image")]
    settings = GenerationSettings(max_new_tokens=4)
    together = [answer.ids for answer in backbone.generate(chats, settings)]
    assert together == [backbone.generate([chat], settings)[0].ids for chat in chats]
    assert len(backbone.layers) == published.LAYERS
    direction = SafetyDirection(torch.randn(published.LAYERS, published.WIDTH), "m", "r", "t", "c", 1, 1)
    tools = Tools(backbone, CaptionStore(None), lambda *, post_norm_last=False: direction)
    for chosen in DEFENSES.values():
        short = {n: 4 for n in ("caption_max_new_tokens", "tell_max_new_tokens") if n in chosen.model_fields}
        answers = chosen(**short).answer(tools, [Request(chat) for chat in chats], settings)  # type: ignore[attr-defined]
        assert len(answers) == len(chats)


def test_a_missing_part_ends_in_one_line(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", "minigpt4", str(parts[0]), str(tmp_path / "out")]
    assert cli.main([*arguments, "--vicuna", str(parts[1]), "--blip2", str(parts[1])]) == 2
    assert "is a llama, not BLIP-2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
