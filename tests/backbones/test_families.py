"""The contract of every model family: one test each, run over tiny random models of all families."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from alone import ALONE
from fixed_directions import FixedDirections
from PIL import Image
from tiny_families import FAMILIES, HIDDEN, LAYERS, Family

from shiftdc_eval.backbones import Backbone, Chat, Generated, GenerationSettings
from shiftdc_eval.backbones.families import image_placeholders
from shiftdc_eval.core.errors import DirectionError, ModelError
from shiftdc_eval.defenses import DEFENSES, Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.defenses.contrast import ContrastPair, ContrastSet
from shiftdc_eval.defenses.directions import check, fit
from shiftdc_eval.defenses.prompts import prompt
from shiftdc_eval.steering import (
    OnlineCalibration,
    SafetyDirection,
    Scope,
    Shift,
    edit_last_token,
    safety_coordinate,
)

STEPS = 4
GREEDY = GenerationSettings(max_new_tokens=STEPS)
NEAR_TIE = 1e-4
"""Top-2 gap under which two correct computations may choose different tokens."""


@pytest.fixture(scope="module", params=list(FAMILIES))
def name(request: pytest.FixtureRequest) -> str:
    family = FAMILIES[request.param]
    if family.package:
        pytest.importorskip(family.package, reason=f"the {request.param} processor needs {family.package}")
    return str(request.param)


@pytest.fixture(scope="module")
def family(name: str) -> Family:
    return FAMILIES[name]


@pytest.fixture(scope="module")
def backbone(name: str, tiny_backbone: Callable[[str], Backbone]) -> Backbone:
    return tiny_backbone(name)


@pytest.fixture(scope="module")
def shown_alone(backbone: Backbone) -> list[Generated]:
    """Answers to `image_chats`, each asked alone."""
    return alone(backbone, image_chats())


@pytest.fixture(scope="module")
def mixed_alone(backbone: Backbone) -> list[Generated]:
    """Answers to `mixed_chats`, each asked alone."""
    return alone(backbone, mixed_chats())


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Noise, so that every patch of every image differs."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def image_chats() -> list[Chat]:
    """Eight requests of unequal length with an image each, of unequal size."""
    texts = [
        "hello",
        "describe the image " * 5,
        "a list of steps",
        "what",
        "is it red " * 3,
        "one",
        "two " * 7,
        "x",
    ]
    sizes = [(40, 30), (60, 90), (90, 60), (30, 30), (56, 56), (80, 40), (40, 30), (35, 70)]
    return [
        Chat.ask(text, [picture(seed, *size)])
        for seed, (text, size) in enumerate(zip(texts, sizes, strict=True))
    ]


def mixed_chats() -> list[Chat]:
    """Chats with and without images, a system prompt among them."""
    return [
        *image_chats()[:3],
        Chat.ask("a text without any image"),
        Chat.ask("be so kind " * 4, system="answer briefly"),
        Chat.ask("and an image", [picture(9, 50, 40)], system="answer briefly"),
    ]


def alone(backbone: Backbone, chats: Sequence[Chat]) -> list[Generated]:
    return [backbone.generate([chat], GREEDY)[0] for chat in chats]


def top_gaps(backbone: Backbone, chat: Chat, answer: Generated) -> list[float]:
    """Gap between the two best allowed tokens at every step of an answer."""
    follower = backbone.follower([chat])
    forbidden = [token for token in image_placeholders(backbone.model.config) if token < 400]
    gaps = []
    for step in range(len(answer.ids)):
        logits = follower.next_logits(torch.tensor([answer.ids[:step]], dtype=torch.long)).clone()
        logits[:, forbidden] = -torch.inf
        best = logits[0].topk(2).values
        gaps.append(float(best[0] - best[1]))
    return gaps


def assert_same_answers(
    backbone: Backbone, chats: Sequence[Chat], some: Sequence[Generated], others: Sequence[Generated]
) -> None:
    """Equal tokens up to the first step whose two best tokens are nearly tied."""
    for chat, one, other in zip(chats, some, others, strict=True):
        if one.ids != other.ids:
            step = next(
                i for i, pair in enumerate(zip(one.ids, other.ids, strict=False)) if pair[0] != pair[1]
            )
            assert top_gaps(backbone, chat, one)[step] < NEAR_TIE, (chat.request, step, one.ids, other.ids)


def outputs_of_all_layers(
    backbone: Backbone, chats: list[Chat], edits: dict[int, Shift]
) -> list[torch.Tensor]:
    """Whole outputs `[batch, tokens, hidden]` of the decoder layers of a prompt pass with edits."""
    seen: list[torch.Tensor] = []
    encoded = backbone.encode(chats)
    with edit_last_token(backbone.layers, edits, encoded.width - 1), torch.no_grad():
        hooks = [
            layer.register_forward_hook(
                lambda _m, _i, out: seen.append((out[0] if isinstance(out, tuple) else out).clone())
            )
            for layer in backbone.layers
        ]
        try:
            backbone.forward(encoded)
        finally:
            for hook in hooks:
                hook.remove()
    assert len(seen) == len(backbone.layers)
    return seen


def test_decoder_layers_are_as_many_as_the_config_says(backbone: Backbone) -> None:
    assert len(backbone.layers) == backbone.model.config.get_text_config().num_hidden_layers == LAYERS
    assert backbone.hidden_size == HIDDEN


def test_a_family_with_a_caveat_carries_it_into_its_results(backbone: Backbone, name: str) -> None:
    assert ("adapter" in backbone.note) == (name == "phi4_multimodal")


def test_the_template_renders_the_published_prompt(backbone: Backbone, family: Family) -> None:
    chat = Chat.ask("hello", [picture(0)])
    if family.prompt is None:
        assert backbone.processor.chat_template is None
        ids = backbone.encode([chat]).inputs["input_ids"][0].tolist()
        wanted = [family.image_token] * 4 + [backbone.tokenizer.bos_token, "hello", "\n"]
        assert backbone.tokenizer.decode(ids) == "".join(wanted)
        return
    prompt = backbone.processor.apply_chat_template(
        [chat.messages()], tokenize=False, add_generation_prompt=True
    )
    assert prompt == [family.prompt]


def test_image_tokens_stand_where_the_template_puts_the_image(backbone: Backbone, family: Family) -> None:
    encoded = backbone.encode([Chat.ask("hello", [picture(0, 60, 90)])])
    ids = encoded.inputs["input_ids"][0].tolist()
    image = backbone.tokenizer.convert_tokens_to_ids(family.image_token)
    assert image in image_placeholders(backbone.model.config)
    places = [place for place, token in enumerate(ids) if token == image]
    after = backbone.tokenizer.decode(ids[places[-1] + 1 :])
    before = backbone.tokenizer.decode(ids[: places[0]])
    assert "hello" in after
    assert "hello" not in before
    assert image not in backbone.encode([Chat.ask("hello")]).inputs["input_ids"]


def test_two_images_have_room_for_each_and_both_are_seen(backbone: Backbone, family: Family) -> None:
    one = Chat.ask("hello", [picture(0)])
    two, second_changed, first_changed = (
        Chat.ask("hello", [picture(first), picture(second)]) for first, second in ((0, 1), (0, 2), (3, 1))
    )
    image = backbone.tokenizer.convert_tokens_to_ids(family.image_token)
    counts = (backbone.encode([one, two, second_changed]).inputs["input_ids"] == image).sum(-1).tolist()
    assert counts[0] > 0
    assert counts[1] == counts[2] > 0
    assert counts[1] % 2 == 0
    last = backbone.last_token_activations([one, two, second_changed, first_changed])[:, -1]
    assert not torch.allclose(last[1], last[2], rtol=1e-3)
    assert not torch.allclose(last[1], last[3], rtol=1e-3)


def test_every_row_of_a_padded_batch_ends_with_its_last_prompt_token(backbone: Backbone) -> None:
    for chats in (image_chats(), [Chat.ask("hello"), Chat.ask("describe the image " * 6)]):
        encoded = backbone.encode(chats)
        assert len(set(encoded.lengths)) > 1, "no padding in this batch: the test would show nothing"
        assert encoded.inputs["attention_mask"][:, -1].eq(1).all()
        for row, chat in zip(encoded.inputs["input_ids"], chats, strict=True):
            single = backbone.encode([chat]).inputs["input_ids"][0]
            assert row[-len(single) :].tolist() == single.tolist()


def test_activations_do_not_depend_on_the_batch_and_its_padding(backbone: Backbone) -> None:
    chats = mixed_chats()
    together = backbone.last_token_activations(chats)
    single = torch.cat([backbone.last_token_activations([chat]) for chat in chats])
    assert together.shape == (len(chats), LAYERS, HIDDEN)
    torch.testing.assert_close(together, single, rtol=1e-4, atol=1e-4)


def test_measured_activations_are_those_of_the_pass_that_answers(backbone: Backbone) -> None:
    seen: dict[int, torch.Tensor] = {}

    def watch(layer: int, rows: list[int]) -> object:
        def look(activation: torch.Tensor) -> torch.Tensor:
            seen.setdefault(layer, torch.zeros(len(chats), HIDDEN))[rows] = activation
            return activation

        return look

    for chats in (image_chats()[:3], [Chat.ask("hello"), Chat.ask("describe the image " * 6)]):
        seen.clear()
        measured = backbone.last_token_activations(chats)
        backbone.generate(
            chats,
            GenerationSettings(max_new_tokens=1),
            edit=lambda rows: {i: watch(i, rows) for i in range(LAYERS)},  # type: ignore[misc]
        )
        assert sorted(seen) == list(range(LAYERS)) or backbone.skipped_without_image
        for layer, activation in seen.items():
            torch.testing.assert_close(measured[:, layer], activation, rtol=1e-6, atol=1e-6)


def test_an_edit_changes_the_chosen_layers_and_nothing_below_or_beside(backbone: Backbone) -> None:
    chats = image_chats()[:3]
    plain = outputs_of_all_layers(backbone, chats, {})
    edited = outputs_of_all_layers(backbone, chats, {2: Shift(torch.ones(HIDDEN))})
    for layer in (0, 1):
        assert torch.equal(plain[layer], edited[layer])
    assert torch.equal(plain[2][:, :-1], edited[2][:, :-1])
    torch.testing.assert_close(edited[2][:, -1], plain[2][:, -1] + 1)
    assert not torch.allclose(plain[3][:, -1], edited[3][:, -1])


def below_layer_1(backbone: Backbone, run: Callable[[], object]) -> torch.Tensor:
    """What enters decoder layer 1 in the first pass of a run, `[batch, tokens, hidden]`."""
    seen: list[torch.Tensor] = []
    handle = backbone.layers[1].register_forward_pre_hook(
        lambda _m, args, kwargs: seen.append((args or (kwargs["hidden_states"],))[0].clone()),
        with_kwargs=True,
    )
    try:
        run()
    finally:
        handle.remove()
    return seen[0]


def test_an_edit_of_image_tokens_changes_them_and_nothing_beside(backbone: Backbone, family: Family) -> None:
    chats = [*image_chats()[:3], Chat.ask("two", [picture(0), picture(1)])]
    scope = Scope(positions="image")
    edits = {0: Shift(torch.full((HIDDEN,), 3.0))}

    def edited(some: list[Chat], settings: GenerationSettings = GREEDY) -> list[Generated]:
        return backbone.generate(some, settings, edit=lambda _rows: edits, scope=scope)

    if backbone.skipped_without_image:
        with pytest.raises(ModelError, match="no image tokens to edit"):
            edited(chats)
        return
    ids = backbone.encode(chats).inputs["input_ids"]
    mask = ids == backbone.tokenizer.convert_tokens_to_ids(family.image_token)
    assert mask.any(-1).all()
    one_token = GenerationSettings(max_new_tokens=1)
    plain = below_layer_1(backbone, lambda: backbone.generate(chats, one_token))
    found = below_layer_1(backbone, lambda: edited(chats, one_token))
    assert torch.equal((found != plain).any(-1), mask), "padding and text are untouched"
    torch.testing.assert_close(found[mask], plain[mask] + 3)
    measured = below_layer_1(
        backbone,
        lambda: backbone.last_token_activations(chats, edit=lambda _rows: edits, scope=scope),
    )
    torch.testing.assert_close(measured, found)
    single = [edited([chat])[0].ids for chat in chats]
    assert [answer.ids for answer in edited(chats)] == single
    uncached = edited(chats, GenerationSettings(max_new_tokens=STEPS, use_cache=False))
    assert [answer.ids for answer in uncached] == single


def test_a_words_embedding_is_the_mean_over_its_tokens(backbone: Backbone) -> None:
    table = backbone.model.get_input_embeddings().weight
    ids = [
        backbone.tokenizer(w, add_special_tokens=False)["input_ids"] for w in ("describe", "describe list")
    ]
    assert len(ids[0]) < len(ids[1])
    found = backbone.word_embeddings(["describe", "describe list"])
    wanted = torch.stack([table[row].mean(0) for row in ids])
    with pytest.raises(ModelError, match="has no token for the word ''"):
        backbone.word_embeddings(["describe", ""])
    # Gemma's rows are scaled on the way in
    torch.testing.assert_close(
        found / found.norm(dim=-1, keepdim=True), wanted / wanted.norm(dim=-1, keepdim=True)
    )


def test_online_calibration_meets_the_text_only_coordinate_exactly(backbone: Backbone) -> None:
    torch.manual_seed(2)
    chats = image_chats()[:4]
    direction = torch.randn(LAYERS, HIDDEN)
    text_only = backbone.last_token_activations([chat.without_images() for chat in chats])
    plain = backbone.last_token_activations(chats)
    seen: dict[int, torch.Tensor] = {}

    def watched(layer: int, rows: list[int]) -> object:
        calibration = OnlineCalibration(text_only[rows, layer], direction[layer])

        def edit(activation: torch.Tensor) -> torch.Tensor:
            edited = calibration(activation)
            seen.setdefault(layer, torch.zeros(len(chats), HIDDEN))[rows] = edited
            return edited

        return edit

    backbone.generate(chats, GREEDY, edit=lambda rows: {i: watched(i, rows) for i in (1, 2, 3)})  # type: ignore[misc]
    for layer in (1, 2, 3):
        wanted = safety_coordinate(text_only[:, layer], direction[layer])
        before = safety_coordinate(plain[:, layer], direction[layer])
        assert ((before - wanted).abs() > 1e-3).any(), (
            "the image shifts nothing here: the test would show nothing"
        )
        torch.testing.assert_close(
            safety_coordinate(seen[layer], direction[layer]), wanted, rtol=0, atol=1e-5
        )


def test_answers_are_those_of_generate(backbone: Backbone, mixed_alone: list[Generated]) -> None:
    for chat, answer in zip(mixed_chats(), mixed_alone, strict=True):
        encoded = backbone.encode([chat])
        with torch.no_grad():
            whole = backbone.model.generate(
                **encoded.inputs,
                do_sample=False,
                max_new_tokens=STEPS,
                suppress_tokens=image_placeholders(backbone.model.config),
            )
        wanted = whole[0, encoded.width :].tolist()
        assert list(answer.ids) == wanted[: len(answer.ids)]
        assert len(answer.ids) == len(wanted)
        assert answer.tokens_in == encoded.width


@pytest.mark.parametrize("batch_size", [4, 8])
def test_answers_do_not_depend_on_the_batch(
    backbone: Backbone, shown_alone: list[Generated], batch_size: int
) -> None:
    chats = image_chats()
    answers: list[Generated] = []
    for start in range(0, len(chats), batch_size):
        batch = chats[start : start + batch_size]
        assert len(set(backbone.encode(batch).lengths)) > 1, "no padding: the test would show nothing"
        answers += backbone.generate(batch, GREEDY)
    assert_same_answers(backbone, chats, shown_alone, answers)


def test_answers_of_a_mixed_batch_are_the_same_with_and_without_a_cache(
    backbone: Backbone, mixed_alone: list[Generated]
) -> None:
    chats = mixed_chats()
    cached = backbone.generate(chats, GREEDY)
    assert_same_answers(backbone, chats, mixed_alone, cached)
    uncached = backbone.generate(chats, GenerationSettings(max_new_tokens=STEPS, use_cache=False))
    assert_same_answers(backbone, chats, cached, uncached)


def test_prompts_followed_side_by_side_do_not_disturb_each_other(backbone: Backbone) -> None:
    shown = image_chats()[1:3]
    texts = [Chat.ask("hello"), Chat.ask("describe the image " * 6), Chat.ask("what is it")]
    answered = torch.arange(20, 24).expand(3, 4)

    def logits(chats: list[Chat], disturbed_by: list[Chat] | None) -> torch.Tensor:
        first = backbone.follower(chats)
        second = backbone.follower(disturbed_by) if disturbed_by else None
        steps = []
        for step in range(4):
            steps.append(first.next_logits(answered[: len(chats), :step]))
            if second and disturbed_by:
                second.next_logits(answered[: len(disturbed_by), :step])
        return torch.stack(steps, 1)

    for chats, others in ((shown, texts), (texts, shown), (shown, shown[:1])):
        single = torch.cat([logits([chat], None) for chat in chats])
        torch.testing.assert_close(logits(chats, others), single, rtol=1e-4, atol=1e-3)


def contrast() -> ContrastSet:
    pairs = [
        ContrastPair(str(i), "", f"how to break {word}", f"how to mend {word}")
        for i, word in enumerate(
            ["a vase", "the door", "a toy", "this cup", "a pen", "my bike", "the chair", "a lamp"]
        )
    ]
    return ContrastSet(tuple(pairs), "mild")


def test_a_direction_is_fitted_saved_loaded_and_refused_for_another_model(
    backbone: Backbone, name: str, tiny_backbone: Callable[[str], Backbone], tmp_path: Path
) -> None:
    direction = fit(backbone, contrast())
    assert direction.vectors.shape == (LAYERS, HIDDEN)
    assert direction.vectors.norm(dim=-1).gt(0).all()
    direction.save(tmp_path / "direction.safetensors")
    loaded = SafetyDirection.load(tmp_path / "direction.safetensors")
    assert torch.equal(check(loaded, backbone, "a file").vectors, direction.vectors)
    other = tiny_backbone("llava" if name != "llava" else "qwen2_vl")
    with pytest.raises(DirectionError, match="was made for"):
        check(loaded, other, "a file")


CLASSES = ("edit_image", "edit_decode", "logits", "edit_prefill", "begin", "generate")
"""What defenses ask of a backbone, the rarest first; the first that a defense needs is its class."""


def of_class(kind: str) -> list[str]:
    """Names of the defenses of a class."""
    return [
        name
        for name in ALONE
        if next((one for one in CLASSES if one in DEFENSES[name].needs), CLASSES[-1]) == kind
    ]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_defense_answers(backbone: Backbone, name: str, kind: str) -> None:
    """Every defense on LLaVA and on Mllama, the one family without image tokens in the text; on each other family one
    defense of every class, in turn, as those of a class ask the same of the family's layers and processor."""
    chosen = of_class(kind)
    if name not in ("llava", "mllama"):
        chosen = [chosen[list(FAMILIES).index(name) % len(chosen)]]
    for defense in chosen:
        answers_with(backbone, defense)


def answers_with(backbone: Backbone, defense: str) -> None:
    torch.manual_seed(5)
    direction = SafetyDirection(torch.randn(LAYERS, HIDDEN), "tiny", "r", "t", "c", 1, 1)
    tools = Tools(backbone, CaptionStore(None), FixedDirections(direction))
    chosen = DEFENSES[defense]
    short = {
        field: 4
        for field in ("caption_max_new_tokens", "tell_max_new_tokens")
        if field in chosen.model_fields
    }
    requests = [Request(chat) for chat in (image_chats()[0], image_chats()[1], Chat.ask("no image"))]
    if "edit_image" in chosen.needs and backbone.skipped_without_image:
        with pytest.raises(ModelError, match="no image tokens to edit"):
            chosen(**short).answer(tools, requests, GREEDY)
        return
    answers = chosen(**short).answer(tools, requests, GREEDY)  # type: ignore[attr-defined]
    assert len(answers) == len(requests)
    refused = prompt("template_refusal")  # said without the model
    assert all(answer.tokens_out >= 1 or answer.text == refused for answer in answers)
