"""MiniGPT-4, checked against an independent plain implementation on tiny weights, not on the published ones."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from alone import ALONE
from fixed_directions import FixedDirections
from PIL import Image
from transformers import BlipImageProcessor

pytest.importorskip("sentencepiece", reason="the tiny published tokenizer is trained with sentencepiece")

import authors
import pictures
import plain
import published
import sentencepiece

from shiftdc_eval import cli
from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, Turn, load_backbone
from shiftdc_eval.backbones.native.image_processor import SquareImageProcessor
from shiftdc_eval.defenses import DEFENSES, Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
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
    return pictures.noise(60, 40)


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


def rendered(backbone: Backbone, chat: Chat) -> str:
    return str(
        backbone.processor.apply_chat_template(chat.messages(), tokenize=False, add_generation_prompt=True)
    )


def test_the_prompt_is_the_authors(backbone: Backbone) -> None:
    one, none = rendered(backbone, Chat.ask("hello", [picture()])), rendered(backbone, Chat.ask("hello"))
    assert one == "###Human: <Img><image></Img> hello ###Assistant: "
    assert none == "###Human: hello ###Assistant: "
    two = Chat((Turn("user", ("a",)), Turn("assistant", ("b",)), Turn("user", ("c",))))
    assert rendered(backbone, two) == "###Human: a ###Assistant: b###Human: c ###Assistant: "


def test_a_chat_is_the_demos_but_for_a_blank_before_the_assistant(backbone: Backbone) -> None:
    """`CONV_VISION_Vicuna0` and `get_prompt` (minigpt4/conversation/conversation.py), which the demo alone uses."""
    system = (
        "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide "
        "it to you. Please answer my questions."
    )
    said = [("Human: ", "<Img><ImageHere></Img> a"), ("Assistant: ", "b"), ("Human: ", "c")]
    demo = system + "###" + "".join(role + text + "###" for role, text in said) + "Assistant: "
    turns = (
        Turn("system", (system,)),
        Turn("user", (picture(), "a")),
        Turn("assistant", ("b",)),
        Turn("user", ("c",)),
    )
    ours = rendered(backbone, Chat(turns)).replace("<image>", "<ImageHere>")
    assert ours.replace(" ###Assistant: ", "###Assistant: ") == demo


TEXTS = [
    "the image shows a list",
    "",
    " ",
    "  two  spaces ",
    "\n\nleading breaks",
    "trailing breaks\n\n",
    "line\nbreak\ttab",
    "Ünïcode 画像 🙂",
    "I'm sorry, 1234",
    "### Assistant: no",
]


def assert_ids_are_the_authors(backbone: Backbone, parts: Parts, text: str) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(parts[1] / "tokenizer.model"))
    image = [backbone.model.config.image_token_id] * published.QUERIES
    shown = authors.MINIGPT4_IMAGE
    first = authors.MINIGPT4.format(shown + "a")
    for chat, prompt in (
        (Chat.ask(text, [picture()]), authors.MINIGPT4.format(shown + text)),
        (Chat.ask(text), authors.MINIGPT4.format(text)),
        (Chat.ask(text, [picture(), picture()]), authors.MINIGPT4.format(shown + shown + text)),
        (Chat.ask(text, [picture()], system="be kind."), "be kind." + authors.MINIGPT4.format(shown + text)),
        (
            Chat((Turn("user", (picture(), "a")), Turn("assistant", ("yes",)), Turn("user", (text,)))),
            first + "yes" + authors.MINIGPT4.format(text),
        ),
    ):
        ids = backbone.encode([chat]).inputs["input_ids"][0].tolist()
        assert ids == authors.minigpt4_ids(prompt, model, image)
        assert ids[-1] == model.piece_to_id("▁"), "the token that is measured and edited is the blank"


@pytest.mark.parametrize("text", TEXTS)
def test_the_prompt_has_the_token_ids_of_the_original_rule(
    backbone: Backbone, parts: Parts, text: str
) -> None:
    assert_ids_are_the_authors(backbone, parts, text)


def test_a_template_without_its_last_blank_would_be_noticed(
    backbone: Backbone, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = backbone.processor.chat_template
    mutated = template.replace("'###Assistant: '", "'###Assistant:'")
    assert mutated != template
    monkeypatch.setattr(backbone.processor, "chat_template", mutated)
    for text in TEXTS:
        with pytest.raises(AssertionError):
            assert_ids_are_the_authors(backbone, parts, text)


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


def assert_pixels_are_the_authors(backbone: Backbone) -> None:
    for image in pictures.ALL.values():
        pixels = backbone.encode([Chat.ask("hello", [image])]).inputs["pixel_values"][0]
        assert torch.equal(pixels, authors.pixels(image, published.SIDE))


def test_pixels_of_the_saved_processor_are_the_authors(backbone: Backbone) -> None:
    assert_pixels_are_the_authors(backbone)


def test_pixels_of_torchvision_would_be_noticed(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    size = {"height": published.SIDE, "width": published.SIDE}
    monkeypatch.setattr(backbone.processor, "image_processor", BlipImageProcessor(size=size))
    with pytest.raises(AssertionError):
        assert_pixels_are_the_authors(backbone)


@pytest.mark.parametrize("kind", list(pictures.ALL))
@pytest.mark.parametrize("side", [224, 448])
def test_pixels_are_the_authors_at_the_published_sizes(kind: str, side: int) -> None:
    processor = SquareImageProcessor(size={"height": side, "width": side})
    pixels = processor(pictures.ALL[kind], return_tensors="pt")["pixel_values"][0]
    assert torch.equal(pixels, authors.pixels(pictures.ALL[kind], side))


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
    tools = Tools(backbone, CaptionStore(None), FixedDirections(direction))
    for chosen in map(DEFENSES.__getitem__, ALONE):
        short = {n: 4 for n in ("caption_max_new_tokens", "tell_max_new_tokens") if n in chosen.model_fields}
        answers = chosen(**short).answer(tools, [Request(chat) for chat in chats], settings)  # type: ignore[attr-defined]
        assert len(answers) == len(chats)


def test_the_last_vision_norm_is_the_authors(backbone: Backbone) -> None:
    """`LayerNorm` of base_model.py, torch's default epsilon; it shows in features of little spread."""
    norm = backbone.model.model.vision_tower.vision_model.post_layernorm
    x = torch.linspace(-1e-3, 1e-3, published.V_WIDTH)[None]
    wanted = torch.nn.functional.layer_norm(x, [published.V_WIDTH], norm.weight, norm.bias)
    with torch.no_grad():
        torch.testing.assert_close(norm(x), wanted)


def test_a_folder_of_an_older_converter_is_refused_in_one_line(
    converted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(converted, tmp_path / "old"))
    config = json.loads((folder / "config.json").read_text())
    config.pop("conversion")
    (folder / "config.json").write_text(json.dumps(config))
    assert cli.main(["doctor", str(folder), "--device", "cpu"]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "converted by an older version" in line]
    assert len(said) == 1
    assert "lacks the blank after `###Assistant:`" in said[0]
    assert "convert again with `shiftdc-eval convert minigpt4`" in said[0]


def test_a_missing_part_ends_in_one_line(
    parts: Parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", "minigpt4", str(parts[0]), str(tmp_path / "out")]
    assert cli.main([*arguments, "--vicuna", str(parts[1]), "--blip2", str(parts[1])]) == 2
    assert "is a llama, not BLIP-2" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
