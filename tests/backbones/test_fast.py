"""The fast engine against the plain path: same tokens in float32, for every family it is allowed for."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from fixed_directions import FixedDirections
from PIL import Image
from tiny_families import FAMILIES, HIDDEN, LAYERS, save_family

from shiftdc_eval.backbones import Backbone, Chat, Generated, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.backbones.fast import passes, prefixes
from shiftdc_eval.backbones.fast.selfcheck import disagreement, failure
from shiftdc_eval.backbones.transformers_backbone import TransformersBackbone
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses import DEFENSES, Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.steering import OnlineCalibration, SafetyDirection

REFUSED = {
    "gemma3": "attend in both directions",
    "paligemma2": "attend in both directions",
    "mllama": "cross-attention",
    "phi4_multimodal": "not among those whose answers were compared",
}
"""Family -> what the refusal says; every other family is allowed."""
WITH_ALL_DEFENSES = ("llava", "qwen2_5_vl", "idefics3")
STEPS = 6
GREEDY = GenerationSettings(max_new_tokens=STEPS)
NEAR_TIE = 1e-4
"""Top-2 gap under which two correct computations may choose different tokens."""


def pair(folder: Path) -> tuple[Backbone, Backbone]:
    """The same model behind the plain path and behind the default engine."""
    plain = load_backbone(ModelSpec(str(folder), device="cpu", engine="plain"))
    chosen = TransformersBackbone(plain.model, plain.processor, name=plain.name, revision=plain.revision)
    return plain, chosen


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Backbone, Backbone]:
    name = str(request.param)
    if package := FAMILIES[name].package:
        pytest.importorskip(package, reason=f"the {name} processor needs {package}")
    return name, *pair(save_family(name, tmp_path_factory.mktemp(name) / name))


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """Noise, so that every patch of every image differs."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def chats() -> list[Chat]:
    """Image chats of unequal prefix and suffix lengths, text chats among them."""
    return [
        Chat.ask("hello", [picture(0)]),
        Chat.ask("describe the image " * 5, [picture(1, 60, 90)]),
        Chat.ask("a text without any image"),
        Chat.ask("a list of steps", [picture(2, 90, 60)], system="answer briefly"),
        Chat.ask("be so kind " * 4, system="answer briefly"),
        Chat.ask("what", [picture(3, 30, 30)]),
        Chat.ask("is it red " * 3, [picture(4, 56, 56)]),
    ]


def counts(backbone: Backbone) -> tuple[int, int, int]:
    """Prefixes made, reused, and reused without another look at the images."""
    kept = backbone.fast.prefixes
    return kept.made, kept.reused, kept.joined


def assert_same(
    plain: Backbone, asked: Sequence[Chat], wanted: Sequence[Generated], got: Sequence[Generated]
) -> None:
    """Equal tokens up to the first step whose two best tokens are nearly tied."""
    for chat, one, other in zip(asked, wanted, got, strict=True):
        assert one.tokens_in == other.tokens_in
        if one.ids == other.ids:
            continue
        step = next(i for i, both in enumerate(zip(one.ids, other.ids, strict=False)) if both[0] != both[1])
        logits = plain.follower([chat])
        scores = [
            logits.next_logits(torch.tensor([one.ids[:at]], dtype=torch.long)) for at in range(step + 1)
        ]
        best = (
            scores[-1]
            .clone()
            .index_fill_(1, torch.tensor(plain.placeholder_ids()), -torch.inf)
            .topk(2)
            .values
        )
        assert float(best[0, 0] - best[0, 1]) < NEAR_TIE, (chat.request, step, one.ids, other.ids)


def test_the_engine_is_allowed_where_it_is_exact_and_refused_with_a_reason_elsewhere(
    family: tuple[str, Backbone, Backbone],
) -> None:
    name, plain, chosen = family
    assert plain.engine == "plain"
    assert chosen.engine == ("plain" if name in REFUSED else "fast")
    assert REFUSED.get(name, "") in (chosen.fast_refusal or "")
    if name in REFUSED:
        with pytest.raises(ConfigError, match="engine=fast cannot be used"):
            TransformersBackbone(plain.model, plain.processor, name=name, revision="r", engine="fast")


def test_the_self_check_finds_agreement_and_is_not_fooled_by_wrong_positions(
    family: tuple[str, Backbone, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, chosen = family
    if name in REFUSED:
        pytest.skip("the engine is not used")
    assert disagreement(chosen) < 1e-3
    monkeypatch.setattr(
        prefixes, "padded", lambda tails, made=prefixes.padded: (*made(tails)[:2], made(tails)[2] + 3)
    )
    monkeypatch.setattr(passes, "padded", prefixes.padded)
    assert failure(chosen) is not None


def test_answers_are_the_plain_paths(family: tuple[str, Backbone, Backbone]) -> None:
    name, plain, chosen = family
    if name in REFUSED:
        pytest.skip("both are the plain path")
    assert_same(plain, chats(), plain.generate(chats(), GREEDY), chosen.generate(chats(), GREEDY))


def test_prompts_about_one_image_share_its_prefix_and_answer_as_the_plain_path_does(
    family: tuple[str, Backbone, Backbone],
) -> None:
    name, plain, chosen = family
    if name in REFUSED:
        with chosen.sharing(chats()):  # allowed to be asked for, and nothing happens
            assert "fast" not in vars(chosen)
        return
    asked = [chat for chat in chats() if chat.images]
    captions = [chat.with_request(f"a red circle above {chat.request}") for chat in asked]
    torch.manual_seed(2)
    text_only, direction = torch.randn(len(asked), LAYERS, HIDDEN), torch.randn(LAYERS, HIDDEN)

    def edit(rows: list[int]) -> dict[int, OnlineCalibration]:
        return {at: OnlineCalibration(text_only[rows, at], direction[at]) for at in (1, 2, 3)}

    wanted = plain.generate(captions, GREEDY), plain.generate(asked, GREEDY, edit=edit)
    before = counts(chosen)
    with chosen.sharing(asked):
        first = chosen.generate(captions, GREEDY)
        measured = chosen.last_token_activations(asked)
        second = chosen.generate(asked, GREEDY, edit=edit)
        subset = chosen.generate(captions[3:0:-2], GREEDY)
    assert_same(plain, captions, wanted[0], first)
    assert_same(plain, captions[3:0:-2], wanted[0][3:0:-2], subset)
    torch.testing.assert_close(measured, plain.last_token_activations(asked), rtol=1e-4, atol=1e-4)
    assert [one.ids for one in wanted[1]] != [one.ids for one in plain.generate(asked, GREEDY)]
    for one, other in zip(wanted[1], second, strict=True):
        assert one.ids == other.ids
    made, reused, joined = (after - before for after, before in zip(counts(chosen), before, strict=True))
    assert made == len(asked)
    assert reused == 2 * len(asked) + 2
    assert joined == reused, "images were looked at again"


def test_every_defense_answers_as_on_the_plain_path(family: tuple[str, Backbone, Backbone]) -> None:
    name, plain, chosen = family
    if name in REFUSED:
        pytest.skip("both are the plain path")
    torch.manual_seed(5)
    direction = SafetyDirection(torch.randn(LAYERS, HIDDEN), "tiny", "r", "t", "c", 1, 1)
    requests = [Request(chat) for chat in chats()[:4]]

    def texts(backbone: Backbone, defense: str) -> list[tuple[str, int, object]]:
        limits = ("caption_max_new_tokens", "tell_max_new_tokens")
        short = {field: 4 for field in limits if field in DEFENSES[defense].model_fields}
        tools = Tools(backbone, CaptionStore(None), FixedDirections(direction))
        answers = DEFENSES[defense](**short).answer(tools, requests, GREEDY)  # type: ignore[attr-defined]
        return [(answer.text, answer.tokens_out, answer.extra) for answer in answers]

    for defense in DEFENSES if name in WITH_ALL_DEFENSES else ["shiftdc"]:
        assert texts(chosen, defense) == texts(plain, defense), defense
