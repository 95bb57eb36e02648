"""Qwen-VL, checked against an independent plain implementation on tiny weights, not on the published ones."""

import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import authors
import pictures
import plain
import published
import pytest
import torch
from alone import ALONE
from fixed_directions import FixedDirections
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Regex, pre_tokenizers
from transformers import BlipImageProcessor, Qwen2Config

from shiftdc_eval import cli
from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, Turn, load_backbone
from shiftdc_eval.backbones.native.qwen_vl import QwenVLConfig, QwenVLForConditionalGeneration
from shiftdc_eval.defenses import DEFENSES, Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.steering import SafetyDirection

pytest.importorskip("tiktoken", reason="the published tokenizer's own library is compared with")

Original = tuple[Path, published.Weights, dict[bytes, int]]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return published.qwen_vl(tmp_path_factory.mktemp("published") / "Qwen-VL-Chat")


@pytest.fixture(scope="module")
def converted(original: Original, tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("converted") / "qwen-vl"
    assert cli.main(["convert", "qwen-vl", str(original[0]), str(destination)]) == 0
    return destination


@pytest.fixture(scope="module")
def encoding(original: Original) -> Any:
    return authors.qwen_encoding(original[2])


@pytest.fixture(scope="module")
def backbone(converted: Path) -> Backbone:
    return load_backbone(ModelSpec(str(converted), device="cpu"))


def picture(seed: int = 3) -> Image.Image:
    return pictures.noise(60, 40, seed=seed)


def test_every_published_key_is_used_or_listed_with_a_reason(original: Original, converted: Path) -> None:
    report = json.loads((converted / "conversion.json").read_text())
    assert report["used"] + len(report["unused"]) == len(original[1])
    assert set(report["unused"].values()) == {"computed from the configuration"}
    assert len(report["shapes_sha256"]) == 64


def test_the_class_has_the_published_number_of_parameters() -> None:
    text = Qwen2Config(
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=32,
        tie_word_embeddings=False,
    )
    with torch.device("meta"):
        model = QwenVLForConditionalGeneration(QwenVLConfig(text_config=text))
    counts = {
        "vision": sum(p.numel() for p in model.model.vision_tower.parameters()),
        "language": sum(p.numel() for p in model.model.language_model.parameters()),
    }
    layer = 4 * 4096 * 4096 + 3 * 4096 + 3 * 4096 * 11008 + 2 * 4096
    assert counts["language"] == 151936 * 4096 + 32 * layer + 4096
    block = 1664 * 3 * 1664 + 3 * 1664 + 1664 * 1664 + 1664 + 2 * 1664 * 8192 + 8192 + 1664 + 4 * 1664
    pool = 2 * 256 * 4096 + 1664 * 4096 + 4 * 4096 * 4096 + 4 * 4096 + 4 * 4096
    ends = 3 * 14 * 14 * 1664 + 256 * 1664 + 2 * 1664 + 2 * 4096 + 4096 * 4096
    assert counts["vision"] == 48 * block + pool + ends


def test_the_prompt_is_the_authors(backbone: Backbone) -> None:
    def rendered(chat: Chat) -> str:
        return str(
            backbone.processor.apply_chat_template(
                chat.messages(), tokenize=False, add_generation_prompt=True
            )
        )

    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    end = "<|im_end|>\n<|im_start|>assistant\n"
    one = "<|im_start|>user\nPicture 1: <img><imgpad></img>\nhello"
    assert rendered(Chat.ask("hello", [picture()])) == system + one + end
    two = Chat(
        (Turn("user", (picture(), "a")), Turn("assistant", ("b",)), Turn("user", (picture(), picture(), "c")))
    )
    assert rendered(two) == (
        system
        + "<|im_start|>user\nPicture 1: <img><imgpad></img>\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
        "<|im_start|>user\nPicture 2: <img><imgpad></img>\nPicture 3: <img><imgpad></img>\nc" + end
    )


@pytest.mark.parametrize(
    "text",
    [
        "the image shows a list",
        "  two  spaces ",
        "Ünïcode 画像 🙂 é",
        "line\n\n break\ttab",
        "\n\nleading",
        "I'm sorry, 1234",
        "a",
        "",
    ],
)
def test_the_tokenizer_equals_tiktoken(backbone: Backbone, encoding: Any, text: str) -> None:
    assert backbone.tokenizer(text)["input_ids"] == encoding.encode(unicodedata.normalize("NFC", text))


def test_special_tokens_have_the_published_ids(backbone: Backbone, encoding: Any) -> None:
    for special in authors.QWEN_SPECIAL:
        assert backbone.tokenizer.convert_tokens_to_ids(special) == encoding.encode_single_token(special)


SYSTEM = "You are a helpful assistant."
"""What `chat` (modeling_qwen.py) puts first when it is given no system prompt."""
Said = list[tuple[str, list[str | None]]]
"""Role and parts of every turn; None is an image."""


def assert_ids_are_the_authors(backbone: Backbone, encoding: Any, said: Said) -> None:
    turns, seen = ([] if said[0][0] == "system" else [("system", SYSTEM)]), 0
    for role, parts in said:
        turns.append((role, authors.qwen_text(parts, seen)))
        seen += parts.count(None)
    chat = Chat(
        tuple(
            Turn(role, tuple(picture() if part is None else part for part in parts)) for role, parts in said
        )
    )
    ids = backbone.encode([chat]).inputs["input_ids"][0].tolist()
    assert ids == authors.qwen_ids(turns, encoding, published.P_QUERIES)


BREAKS = ["\n", "\n\nhello", "\n \n hello", " \nhello"]
OTHERS = [
    "",
    " hello",
    "hello\n",
    "hello\n\n",
    "hello \n ",
    "   ",
    "Ünïcode 画像 🙂 e\u0301",
    "\u0301a",
    "user\n\na",
]


@pytest.mark.parametrize("text", [*BREAKS, *OTHERS])
def test_prompts_have_the_token_ids_of_the_original_rule(
    backbone: Backbone, encoding: Any, text: str
) -> None:
    prompts: list[Said] = [
        [("user", [text])],
        [("user", [None, text])],
        [("user", [None, None, text])],
        [("user", [text, None])],
        [("system", [text]), ("user", ["hello"])],
        [("user", [None, "a"]), ("assistant", [text]), ("user", [text])],
        [("user", [None, text]), ("assistant", [text]), ("user", [None, text])],
    ]
    for said in prompts:
        assert_ids_are_the_authors(backbone, encoding, said)


TEXT = st.lists(
    st.sampled_from(
        ["\n", "\r", " ", "\t", "a", "the", "é", "e\u0301", "\u0301", "1", "'s", "!", "画", "user\n"]
    ),
    max_size=6,
).map("".join)
ASKED = st.tuples(st.integers(0, 2), TEXT).map(lambda drawn: [*[None] * drawn[0], drawn[1]])


@settings(max_examples=200, deadline=None)
@given(st.none() | TEXT, st.lists(st.tuples(ASKED, TEXT), max_size=2), ASKED)
def test_any_prompt_has_the_token_ids_of_the_original_rule(
    backbone: Backbone,
    encoding: Any,
    system: str | None,
    history: list[tuple[list[str | None], str]],
    asked: list[str | None],
) -> None:
    said: Said = [] if system is None else [("system", [system])]
    for question, answer in history:
        said += [("user", question), ("assistant", [answer])]
    assert_ids_are_the_authors(backbone, encoding, [*said, ("user", asked)])


@pytest.mark.parametrize("text", BREAKS)
def test_line_breaks_joined_with_the_role_would_be_noticed(
    backbone: Backbone, encoding: Any, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    cut = pre_tokenizers.Split(Regex(authors.QWEN_PATTERN), behavior="isolated")
    whole = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    monkeypatch.setattr(backbone.tokenizer.backend_tokenizer, "pre_tokenizer", whole)
    changed: list[Said] = [
        [("user", [text])],
        [("system", [text]), ("user", ["a"])],
        [("user", [text, None])],
    ]
    for said in changed:
        with pytest.raises(AssertionError):
            assert_ids_are_the_authors(backbone, encoding, said)
    assert_ids_are_the_authors(backbone, encoding, [("user", [None, text])])


def assert_pixels_are_the_authors(backbone: Backbone) -> None:
    for image in pictures.ALL.values():
        pixels = backbone.encode([Chat.ask("hello", [image])]).inputs["pixel_values"][0]
        assert torch.equal(pixels, authors.pixels(image, published.P_GRID_SIDE))


def test_pixels_of_the_saved_processor_are_the_authors(backbone: Backbone) -> None:
    assert_pixels_are_the_authors(backbone)


def test_pixels_of_torchvision_would_be_noticed(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    size = {"height": published.P_GRID_SIDE, "width": published.P_GRID_SIDE}
    monkeypatch.setattr(backbone.processor, "image_processor", BlipImageProcessor(size=size))
    with pytest.raises(AssertionError):
        assert_pixels_are_the_authors(backbone)


def test_logits_equal_an_independent_plain_implementation(backbone: Backbone, original: Original) -> None:
    weights = original[1]
    encoded = backbone.encode([Chat.ask("the image shows", [picture(1), picture(2)])])
    with torch.no_grad():
        got = backbone.model(**encoded.inputs).logits[0]
    visual = plain.sub(weights, "transformer.visual.")
    images = [
        plain.qwen_vl_features(
            visual, image, heads=published.V_HEADS, blocks=published.V_LAYERS, pool_heads=1
        )
        for image in encoded.inputs["pixel_values"]
    ]
    ids = encoded.inputs["input_ids"][0]
    places = ids == backbone.model.config.image_token_id
    assert int(places.sum()) == 2 * published.P_QUERIES
    embedded = torch.zeros(len(ids), published.WIDTH, dtype=torch.float64)
    embedded[~places] = weights["transformer.wte.weight"].double()[ids[~places]]
    embedded[places] = torch.cat(images)
    wanted = plain.qwen_logits(
        plain.sub(weights, "transformer."),
        embedded,
        weights["lm_head.weight"],
        layers=published.LAYERS,
        heads=published.HEADS,
        theta=10_000.0,
        eps=published.EPS,
    )
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)


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


def damaged_ranks(folder: Path) -> None:
    (folder / "qwen.tiktoken").write_text("not base64! 0\n")


def another_start(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["visual"]["image_start_id"] += 1
    (folder / "config.json").write_text(json.dumps(config))


def text_only(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["visual"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damaged_ranks, "as a tiktoken file"),
        (another_start, "its tokenizer gives"),
        (text_only, "is not Qwen-VL"),
    ],
)
def test_what_cannot_be_converted_leaves_one_line_and_no_folder(
    damage: object, said: str, original: Original, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(original[0], tmp_path / "copy"))
    damage(folder)  # type: ignore[operator]
    assert cli.main(["convert", "qwen-vl", str(folder), str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


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
    assert "leading line breaks" in said[0]
    assert "convert again with `shiftdc-eval convert qwen-vl`" in said[0]


def test_loading_the_published_layout_names_the_converter(
    original: Original, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["doctor", str(original[0]), "--device", "cpu"]) == 2
    assert "`shiftdc-eval convert qwen-vl SRC DST`" in capsys.readouterr().err
