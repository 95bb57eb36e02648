from pathlib import Path

import pytest
import torch
from PIL import Image

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, Turn, load_backbone
from shiftdc_eval.core.errors import ConfigError, ModelError
from shiftdc_eval.steering import OnlineCalibration

GREEDY = GenerationSettings(max_new_tokens=12)


@pytest.fixture(scope="module")
def backbone(tiny_llava: Path) -> Backbone:
    return load_backbone(ModelSpec(str(tiny_llava), device="cpu"))


def picture(colour: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, colour)


def mixed_chats() -> list[Chat]:
    """Chats of unequal length, with none, one and two images, a system prompt and an earlier turn."""
    return [
        Chat.ask("hello", [picture("red")]),
        Chat.ask("describe the image " * 6, [picture("blue")], system="be brief"),
        Chat.ask("a text without any image"),
        Chat.ask("two", [picture("green"), picture("white", (10, 50))]),
        Chat((Turn("user", ("first",)), Turn("assistant", ("answer",)), Turn("user", ("second " * 9,)))),
        Chat.ask("one more image " * 3, [picture("black")]),
    ]


def test_decoder_layers_are_found_by_structure(backbone: Backbone) -> None:
    assert len(backbone.layers) == backbone.model.config.text_config.num_hidden_layers
    assert backbone.hidden_size == 32


def test_a_batch_is_left_padded_and_every_row_ends_with_its_last_prompt_token(backbone: Backbone) -> None:
    chats = [Chat.ask("hello"), Chat.ask("describe the image " * 6)]
    encoded = backbone.encode(chats)
    assert len(set(encoded.lengths)) == 2, "no padding in this batch: the test would show nothing"
    assert encoded.inputs["attention_mask"][:, -1].tolist() == [1, 1]
    single = [backbone.encode([chat]).inputs["input_ids"][0] for chat in chats]
    for row, ids in zip(encoded.inputs["input_ids"], single, strict=True):
        assert row[-len(ids) :].tolist() == ids.tolist()


def test_activations_do_not_depend_on_the_batch(backbone: Backbone) -> None:
    chats = mixed_chats()
    together = backbone.last_token_activations(chats)
    alone = torch.cat([backbone.last_token_activations([chat]) for chat in chats])
    assert together.shape == (len(chats), 4, 32)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_activations_are_the_layers_own_outputs(backbone: Backbone) -> None:
    encoded = backbone.encode([Chat.ask("hello", [picture("red")])])
    with torch.no_grad():
        states = backbone.model(**encoded.inputs, output_hidden_states=True).hidden_states
    mine = backbone.last_token_activations([Chat.ask("hello", [picture("red")])])[0]
    for layer in range(3):
        assert torch.equal(mine[layer], states[layer + 1][0, -1])
    torch.testing.assert_close(backbone.final_norm(mine[3]), states[4][0, -1])
    assert not torch.allclose(mine[3], states[4][0, -1]), (
        "the last entry of hidden_states is normed, ours is not"
    )


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_greedy_answers_are_those_of_generate_whatever_the_batch(backbone: Backbone, batch_size: int) -> None:
    chats = mixed_chats()
    answers = []
    for start in range(0, len(chats), batch_size):
        answers += backbone.generate(chats[start : start + batch_size], GREEDY)
    for chat, answer in zip(chats, answers, strict=True):
        encoded = backbone.encode([chat])
        with torch.no_grad():
            whole = backbone.model.generate(
                **encoded.inputs,
                do_sample=False,
                max_new_tokens=12,
                suppress_tokens=[backbone.model.config.image_token_id],
            )
        wanted = whole[0, encoded.width :].tolist()
        assert list(answer.ids) == wanted[: len(answer.ids)]
        assert len(answer.ids) == len(wanted) or wanted[len(answer.ids)] == backbone.tokenizer.pad_token_id
        assert answer.tokens_in == encoded.width


def test_answers_without_a_kv_cache_are_the_same(backbone: Backbone) -> None:
    cached = backbone.generate(mixed_chats(), GREEDY)
    uncached = backbone.generate(mixed_chats(), GenerationSettings(max_new_tokens=12, use_cache=False))
    assert [answer.ids for answer in cached] == [answer.ids for answer in uncached]


def test_a_sampled_answer_depends_on_its_seed_and_not_on_its_batch(backbone: Backbone) -> None:
    settings = GenerationSettings(max_new_tokens=12, do_sample=True, temperature=0.8, top_p=0.95, top_k=50)
    chats = mixed_chats()
    seeds = [f"seed {index}" for index in range(len(chats))]
    together = backbone.generate(chats, settings, seeds=seeds)
    alone = [
        backbone.generate([chat], settings, seeds=[seed])[0] for chat, seed in zip(chats, seeds, strict=True)
    ]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    other = backbone.generate(chats, settings, seeds=[f"other {index}" for index in range(len(chats))])
    assert [answer.ids for answer in together] != [answer.ids for answer in other]


def test_sampling_draws_from_the_models_distribution(backbone: Backbone) -> None:
    chat = Chat.ask("hello", [picture("red")])
    encoded = backbone.encode([chat])
    with torch.no_grad():
        logits = backbone.model(**encoded.inputs).logits[0, -1].double()
    logits[backbone.model.config.image_token_id] = -torch.inf
    wanted = torch.softmax(logits / 2.0, -1)
    settings = GenerationSettings(max_new_tokens=1, do_sample=True, temperature=2.0)
    draws = 1500
    counts = torch.zeros_like(wanted)
    for start in range(0, draws, 500):
        seeds = [str(index) for index in range(start, start + 500)]
        for answer in backbone.generate([chat] * 500, settings, seeds=seeds):
            counts[answer.ids[0]] += 1
    top = wanted.topk(5).indices
    spread = (wanted[top] * (1 - wanted[top]) / draws).sqrt()
    assert ((counts[top] / draws - wanted[top]).abs() < 4.5 * spread).all()


def test_the_text_is_cut_before_a_stop_string(backbone: Backbone) -> None:
    chat = Chat.ask("hello", [picture("red")])
    whole = backbone.generate([chat], GREEDY)[0].text
    stop = whole[5:7]
    cut = backbone.generate([chat], GenerationSettings(max_new_tokens=12, until=(stop,)))[0].text
    assert cut == whole[: whole.index(stop)]


@pytest.mark.parametrize("use_cache", [True, False])
def test_edits_are_exact_and_the_same_with_and_without_cache(backbone: Backbone, use_cache: bool) -> None:
    torch.manual_seed(1)
    chats = mixed_chats()
    text_only = torch.randn(len(chats), 4, 32)
    direction = torch.randn(4, 32)

    def edit(rows: list[int]) -> dict[int, OnlineCalibration]:
        return {layer: OnlineCalibration(text_only[rows, layer], direction[layer]) for layer in (2, 3)}

    settings = GenerationSettings(max_new_tokens=12, use_cache=use_cache)
    together = backbone.generate(chats, settings, edit=edit)
    alone = [
        backbone.generate([chat], GREEDY, edit=lambda _, row=row: edit([row]))[0]
        for row, chat in enumerate(chats)
    ]
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]
    assert [answer.ids for answer in together] != [answer.ids for answer in backbone.generate(chats, GREEDY)]


def test_a_changed_weight_is_another_revision(tiny_llava: Path, tmp_path: Path) -> None:
    from tiny_models import save_tiny_llava

    other = load_backbone(ModelSpec(str(save_tiny_llava(tmp_path / "other", seed=1)), device="cpu"))
    first = load_backbone(ModelSpec(str(tiny_llava), device="cpu"))
    assert first.revision != other.revision
    assert first.revision == load_backbone(ModelSpec(str(tiny_llava), device="cpu")).revision


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            ModelSpec("no-such-org/no-such-model", device="cpu"),
            "cannot load pretrained=no-such-org/no-such-model",
        ),
        (
            ModelSpec("/no/such/folder", device="cpu"),
            "cannot load pretrained=/no/such/folder: there is no such folder.",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_ends_in_one_line(spec: ModelSpec, said: str) -> None:
    with pytest.raises(ModelError) as caught:
        load_backbone(spec)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_holds_no_model_is_told_from_a_hub_id(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"pretrained={tmp_path}: the folder has no config.json"):
        load_backbone(ModelSpec(str(tmp_path), device="cpu"))


def test_a_language_model_without_eyes_is_refused_in_one_line(tmp_path: Path) -> None:
    from tiny_models import tiny_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=500
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    tiny_tokenizer().save_pretrained(tmp_path / "llama")
    with pytest.raises(ModelError, match="not a supported vision-language model") as caught:
        load_backbone(ModelSpec(str(tmp_path / "llama"), device="cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (ModelSpec("x", dtype="float8", device="cpu"), "dtype=float8 is unknown"),
        (ModelSpec("x", device="gpu"), "device=gpu is not a torch device"),
    ],
)
def test_bad_loading_options_name_themselves(spec: ModelSpec, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_backbone(spec)
