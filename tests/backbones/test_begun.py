"""A chat whose answer is begun: what the model is asked, what it goes on with, and what it cannot begin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_families import FAMILIES, TEMPLATES, Family, save_family

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.backbones.families import image_placeholders
from shiftdc_eval.backbones.vllm.prompts import prompt_ids
from shiftdc_eval.core.errors import ConfigError, ModelError
from shiftdc_eval.defenses.caption_store import answer_key

BEGUN = "As an AI assistant"
STEPS = 4
GREEDY = GenerationSettings(max_new_tokens=STEPS)
BLANK_BETWEEN = {"llava", "llava_next_vicuna", "idefics3", "smolvlm"}
"""Families whose prompt ends in the role and a colon: the published turn has a blank behind it."""


@pytest.fixture(scope="module", params=list(FAMILIES))
def name(request: pytest.FixtureRequest) -> str:
    if package := FAMILIES[request.param].package:
        pytest.importorskip(package, reason=f"the {request.param} processor needs {package}")
    return str(request.param)


@pytest.fixture(scope="module")
def family(name: str) -> Family:
    return FAMILIES[name]


@pytest.fixture(scope="module")
def backbone(name: str, tiny_backbone: Callable[[str], Backbone]) -> Backbone:
    return tiny_backbone(name)


@pytest.fixture(scope="module")
def llava(tiny_backbone: Callable[[str], Backbone]) -> Backbone:
    return tiny_backbone("llava")


def shown(text: str = "hello", width: int = 40) -> Chat:
    pixels = torch.randint(
        0, 256, (30, width, 3), generator=torch.Generator().manual_seed(width), dtype=torch.uint8
    )
    return Chat.ask(text, [Image.fromarray(pixels.numpy())])


def begun(chat: Chat) -> Chat:
    return chat.with_answer_begun(BEGUN)


def ids(backbone: Backbone, chat: Chat) -> list[int]:
    found: list[int] = backbone.encode([chat]).inputs["input_ids"][0].tolist()
    return found


@pytest.mark.parametrize("system", ["", "be brief"])
def test_the_prompt_is_the_undefended_one_and_the_beginning_of_the_answer(
    backbone: Backbone, name: str, system: str
) -> None:
    for chat in (shown(), Chat.ask("hello", system=system)):
        plain, more = ids(backbone, chat), ids(backbone, begun(chat))
        assert more[: len(plain)] == plain
        between = " " if name in BLANK_BETWEEN else ""
        assert backbone.tokenizer.decode(more[len(plain) :]) == between + BEGUN


def test_the_model_goes_on_as_if_it_had_said_the_beginning_itself(backbone: Backbone) -> None:
    """The beginning is given to the model token by token, as its own answer, behind the undefended prompt."""
    for chat in (shown(), Chat.ask("no image")):
        plain, more = ids(backbone, chat), ids(backbone, begun(chat))
        answer = more[len(plain) :]
        follower = backbone.follower([chat])
        forbidden = image_placeholders(backbone.model.config)
        said: list[int] = []
        for step in range(len(answer) + STEPS):
            logits = follower.next_logits(torch.tensor([(answer + said)[:step]], dtype=torch.long))[0].clone()
            if step >= len(answer):
                logits[[token for token in forbidden if token < len(logits)]] = -torch.inf
                said.append(int(logits.argmax()))
                if said[-1] in backbone.end_ids():  # type: ignore[attr-defined]
                    break
        (found,) = backbone.generate([begun(chat)], GREEDY)
        assert list(found.ids) == said
        assert (found.tokens_in, found.tokens_out) == (len(more), len(said))
        assert found.text.startswith(BEGUN)


def test_no_answer_depends_on_its_batch_where_some_are_begun(backbone: Backbone) -> None:
    chats = [
        shown(), begun(shown("the image " * 4, 70)), begun(Chat.ask("words")),
        shown("one").with_answer_begun("Sure, here is a list"), Chat.ask("a few words"),
    ]  # fmt: skip
    alone = [backbone.generate([chat], GREEDY)[0] for chat in chats]
    assert [one.ids for one in backbone.generate(chats, GREEDY)] == [one.ids for one in alone]


def test_vllm_is_given_the_same_token_ids(backbone: Backbone, family: Family) -> None:
    if family.prompt is None:
        pytest.skip("PaliGemma has no chat template, and vLLM is not offered for it")
    control: list[str] = backbone._control  # type: ignore[attr-defined]
    for chat in (Chat.ask("hello"), Chat.ask("a longer one", system="be brief")):
        (found,) = prompt_ids(backbone.processor, backbone.tokenizer, [begun(chat)], control)  # type: ignore[attr-defined]
        assert found == ids(backbone, begun(chat))


def test_a_beginning_of_its_own_blank_gets_no_second_one(llava: Backbone) -> None:
    plain = ids(llava, shown())
    for text in (" Sure", "\nSure"):
        more = ids(llava, shown().with_answer_begun(text))
        assert llava.tokenizer.decode(more[len(plain) :]) == text


def test_control_tokens_in_a_beginning_are_plain_text(llava: Backbone) -> None:
    image = llava.tokenizer.convert_tokens_to_ids("<image>")
    chat = Chat.ask("hello").with_answer_begun("The <image> shows")
    assert image not in ids(llava, chat)
    assert llava.generate([chat], GREEDY)[0].text.startswith("The <image> shows")


def test_changes_of_a_chat_keep_the_beginning_of_its_answer() -> None:
    chat = begun(shown())
    for changed in (chat.with_request("x"), chat.without_images(), chat.with_images(chat.images)):
        assert changed.begun == BEGUN


def test_keys_of_other_chats_are_what_they_were_and_begun_ones_have_their_own(llava: Backbone) -> None:
    chat = shown()
    assert chat.key() == [["user", chat.key()[0][1], "hello"]]
    keys = {answer_key(llava, one, GREEDY) for one in (chat, begun(chat), chat.with_answer_begun("Sure"))}
    assert len(keys) == 3


def test_stop_strings_cut_what_is_generated_and_never_the_beginning(llava: Backbone) -> None:
    whole = llava.generate([begun(shown())], GREEDY)[0].text
    said = whole.removeprefix(BEGUN)
    assert said
    cut = GenerationSettings(max_new_tokens=STEPS, until=("AI", said[0]))
    text = llava.generate([begun(shown())], cut)[0].text
    assert text == BEGUN


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (TEMPLATES["qwen3_vl"].replace("assistant\n'", "assistant\n<think>\n'"), r"opens a reasoning block \(<think>\)"),
        (TEMPLATES["vicuna"].replace("{% for m in messages %}", "{% for m in messages if m.role == 'user' %}"), "leaves out"),
        (TEMPLATES["vicuna"] + "{% if messages[-1]['role'] == 'assistant' %}{{ none.x.y }}{% endif %}", "cannot render"),
    ],
)  # fmt: skip
def test_what_a_template_has_no_place_for_is_an_error(tmp_path: Path, template: str, said: str) -> None:
    folder = save_family("llava", tmp_path / "llava")
    (folder / "chat_template.jinja").write_text(template)
    backbone = load_backbone(ModelSpec(str(folder), device="cpu"))
    backbone.generate([Chat.ask("hello")], GREEDY)
    with pytest.raises(ModelError, match=said) as raised:
        backbone.generate([begun(Chat.ask("hello"))], GREEDY)
    assert str(folder) in str(raised.value)


def test_a_template_that_closes_its_reasoning_block_is_fine(tmp_path: Path) -> None:
    folder = save_family("qwen3_vl", tmp_path / "qwen")
    closed = "assistant\n<think>\n\n</think>\n\n"
    (folder / "chat_template.jinja").write_text(TEMPLATES["qwen3_vl"].replace("assistant\n", closed))
    backbone = load_backbone(ModelSpec(str(folder), device="cpu"))
    assert backbone.tokenizer.decode(ids(backbone, begun(shown()))).endswith(f"</think>\n\n{BEGUN}")


def test_the_beginning_must_be_a_text() -> None:
    with pytest.raises(ConfigError, match="the beginning of an answer is a int, not a text"):
        shown().with_answer_begun(3)  # type: ignore[arg-type]
