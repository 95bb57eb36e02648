import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

pytest.importorskip("sentencepiece", reason="the tiny published tokenizer is trained with sentencepiece")

import plain
import published
import sentencepiece

from shiftdc_eval import cli
from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. "
)
Published = tuple[Path, published.Weights, published.Weights]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return published.sharegpt4v(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def converted(original: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    destination = tmp_path_factory.mktemp("converted") / "sharegpt4v"
    assert cli.main(["convert", "llava", str(original[0]), str(destination)]) == 0
    return destination


@pytest.fixture(scope="module")
def backbone(converted: Path) -> Backbone:
    return load_backbone(ModelSpec(str(converted), device="cpu"))


def picture() -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def ids_by_the_original_rule(folder: Path, text: str, image: int) -> list[int]:
    """Chunks around `<image>` tokenized one by one, BOS once, as the original code does."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    before, after = text.split("<image>")
    tokens = (published.SIDE // published.PATCH) ** 2
    return [1, *model.encode(before), *[image] * tokens, *model.encode(after)]


def test_every_published_key_is_used_or_listed_with_a_reason(original: Published, converted: Path) -> None:
    report = json.loads((converted / "conversion.json").read_text())
    keys = [*original[1], *(f"vision_model.{name}" for name in original[2])]
    assert report["used"] + len(report["unused"]) == len(keys)
    assert set(report["unused"]) <= set(keys)
    assert {key.rsplit(".", 1)[1]: why for key, why in report["unused"].items()} == {
        "inv_freq": "computed from the configuration",
        "position_ids": "a constant: 0, 1, 2 ...",
    }
    assert any("mean of the published rows" in note for note in report["notes"])


def test_transformers_finds_nothing_missing_and_nothing_left_over(converted: Path) -> None:
    _, info = LlavaForConditionalGeneration.from_pretrained(converted, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


def test_tensors_come_through_unchanged(original: Published, converted: Path) -> None:
    tensors = load_file(converted / "model.safetensors")
    for name, value in original[1].items():
        if name.startswith("model.layers.") and "inv_freq" not in name:
            assert torch.equal(tensors[f"language_model.{name}"], value)
    extra = tensors["language_model.model.embed_tokens.weight"]
    assert torch.equal(extra[:-1], original[1]["model.embed_tokens.weight"])
    torch.testing.assert_close(extra[-1], original[1]["model.embed_tokens.weight"].mean(0))


def test_the_prompt_is_the_authors(backbone: Backbone, original: Published) -> None:
    def rendered(chat: Chat) -> str:
        return str(
            backbone.processor.apply_chat_template(
                chat.messages(), tokenize=False, add_generation_prompt=True
            )
        )

    assert rendered(Chat.ask("hello", [picture()])) == SYSTEM + "USER: <image>\nhello ASSISTANT:"
    assert rendered(Chat.ask("hello", system="Be kind.")) == "Be kind. USER: hello ASSISTANT:"
    from shiftdc_eval.backbones import Turn

    two = Chat((Turn("user", ("a",)), Turn("assistant", ("b",)), Turn("user", ("c",))))
    assert rendered(two) == SYSTEM + "USER: a ASSISTANT: b</s>USER: c ASSISTANT:"


def test_the_prompt_has_the_token_ids_of_the_original_rule(backbone: Backbone, original: Published) -> None:
    ids = backbone.encode([Chat.ask("the image shows a list", [picture()])]).inputs["input_ids"][0].tolist()
    text = SYSTEM + "USER: <image>\nthe image shows a list ASSISTANT:"
    assert ids == ids_by_the_original_rule(original[0], text, backbone.model.config.image_token_id)


def test_an_image_is_padded_to_a_square_with_the_mean_colour(backbone: Backbone) -> None:
    image = Image.new("RGB", (56, 28), "black")
    pixels = backbone.encode([Chat.ask("hello", [image])]).inputs["pixel_values"][0]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    spread = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    assert pixels[:, 0].abs().max() < 0.02, "the rows above the image hold the mean colour"
    torch.testing.assert_close(pixels[:, 14, 14], -mean / spread, rtol=1e-3, atol=1e-3)


def test_logits_equal_an_independent_plain_implementation(backbone: Backbone, original: Published) -> None:
    _, weights, vision = original
    encoded = backbone.encode([Chat.ask("the image shows", [picture()])])
    with torch.no_grad():
        got = backbone.model(**encoded.inputs).logits[0]
    ids = encoded.inputs["input_ids"][0]
    image = plain.clip_features(
        plain.sub(vision, ""),
        encoded.inputs["pixel_values"][0],
        heads=published.V_HEADS,
        blocks=published.V_LAYERS - 1,
    )
    w = plain.sub(weights, "model.")
    image = plain.linear(plain.gelu(plain.linear(image, w, "mm_projector.0")), w, "mm_projector.2")
    places = ids == backbone.model.config.image_token_id
    embedded = torch.zeros(len(ids), published.WIDTH, dtype=torch.float64)
    embedded[~places] = w["embed_tokens.weight"][ids[~places]]
    embedded[places] = image
    wanted = plain.llama_logits(
        w,
        embedded,
        weights["lm_head.weight"],
        layers=published.LAYERS,
        heads=published.HEADS,
        key_value_heads=published.KEY_VALUE_HEADS,
        theta=10_000.0,
        eps=published.EPS,
    )
    torch.testing.assert_close(got[:, :-1].double(), wanted, rtol=1e-4, atol=1e-4)
    assert (got[:, -1] <= got[:, :-1].max(-1).values).all(), "the added token can never be the best"


def test_the_converted_model_answers(backbone: Backbone) -> None:
    answer = backbone.generate([Chat.ask("hello", [picture()])], GenerationSettings(max_new_tokens=4))[0]
    assert answer.tokens_out >= 1


def copy_of(original: Published, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original[0], tmp_path / "copy"))


def test_vision_weights_inside_the_checkpoint_win_over_the_tower(original: Published, tmp_path: Path) -> None:
    folder = copy_of(original, tmp_path)
    inside = {f"model.vision_tower.vision_tower.vision_model.{k}": v + 1 for k, v in original[2].items()}
    torch.save(inside, folder / "pytorch_model-00003-of-00003.bin")
    assert cli.main(["convert", "llava", str(folder), str(tmp_path / "out")]) == 0
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    name = "embeddings.class_embedding"
    assert torch.equal(tensors[f"vision_tower.vision_model.{name}"], original[2][name] + 1)


def test_large_checkpoints_are_written_in_shards(
    original: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, converted: Path
) -> None:
    monkeypatch.setattr("shiftdc_eval.backbones.convert.checkpoint.SHARD_BYTES", 40_000)
    assert cli.main(["convert", "llava", str(original[0]), str(tmp_path / "out")]) == 0
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 1
    merged = {name: value for file in files for name, value in load_file(tmp_path / "out" / file).items()}
    whole = load_file(converted / "model.safetensors")
    assert merged.keys() == whole.keys()
    assert all(torch.equal(merged[name], whole[name]) for name in whole)
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in whole.values())
    _, info = LlavaForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]


def unknown_key(folder: Path) -> None:
    torch.save({"model.surprise.weight": torch.zeros(2)}, folder / "pytorch_model-00003-of-00003.bin")


def wrong_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 50}))


def missing_file(folder: Path) -> None:
    (folder / "pytorch_model-00002-of-00002.bin").unlink()


def other_projector(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mm_projector_type": "linear"}))


def no_tower(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mm_vision_tower": "nobody/no-tower"}))


def not_tensors(folder: Path) -> None:
    torch.save({"model.norm.weight": Path("x")}, folder / "pytorch_model-00001-of-00002.bin")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (unknown_key, "model.surprise.weight (2,), which no rule knows"),
        (wrong_shape, "the configuration asks for"),
        (missing_file, "the published checkpoint lacks"),
        (other_projector, "mm_projector_type='linear'"),
        (no_tower, "nobody/no-tower is neither a folder nor a model that can be fetched"),
        (not_tensors, "as plain tensors"),
    ],
)
def test_what_cannot_be_converted_leaves_one_line_and_no_folder(
    damage: object, said: str, original: Published, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy_of(original, tmp_path)
    damage(folder)  # type: ignore[operator]
    assert cli.main(["convert", "llava", str(folder), str(tmp_path / "out")]) == 2
    lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("shiftdc-eval convert:")
    ]
    assert len(lines) == 1
    assert said in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


def test_an_existing_destination_is_left_alone(original: Published, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert cli.main(["convert", "llava", str(original[0]), str(tmp_path / "out")]) == 2
    assert not list((tmp_path / "out").iterdir())


def test_safetensors_checkpoints_are_read_too(original: Published, tmp_path: Path, converted: Path) -> None:
    folder = copy_of(original, tmp_path)
    for file in folder.glob("pytorch_model*.bin"):
        file.unlink()
    save_file(dict(original[1]), folder / "model.safetensors")
    assert cli.main(["convert", "llava", str(folder), str(tmp_path / "out")]) == 0
    one, other = (load_file(path / "model.safetensors") for path in (tmp_path / "out", converted))
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize(
    "text",
    [
        "the image shows a list",
        "  two  spaces ",
        "Ünïcode 画像 🙂",
        "line\nbreak\ttab",
        "I'm sorry, I cannot",
        "a",
        "",
    ],
)
def test_the_tokenizer_equals_sentencepiece_itself(
    backbone: Backbone, original: Published, text: str
) -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(original[0] / "tokenizer.model"))
    ids = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == model.encode(text)
    assert backbone.tokenizer.decode(ids) == model.decode(ids)
