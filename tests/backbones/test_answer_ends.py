"""Where an answer ends, and what a request that spells out control tokens is: same tokens alone and in a batch."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone

LONG = GenerationSettings(max_new_tokens=24)


@pytest.fixture
def backbone(tiny_llava: Path) -> Backbone:
    return load_backbone(ModelSpec(str(tiny_llava), device="cpu"))


def picture(seed: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 256, (30, 40, 3), generator=generator, dtype=torch.uint8).numpy())


def test_a_stop_string_ends_an_answer_at_the_token_that_completes_it(backbone: Backbone) -> None:
    chats = [
        Chat.ask("describe " * (1 + 5 * seed % 7), [picture(seed), picture(90 + seed)][: 1 + seed % 3 % 2])
        for seed in range(6)
    ]
    whole = backbone.generate(chats, LONG)
    stops = sorted({answer.text[at : at + 2] for answer in whole[:4] for at in (5, 9)} - {""})
    backbone.model.generation_config.stop_strings = stops
    alone = [backbone.generate([chat], LONG)[0] for chat in chats]
    assert len({answer.tokens_out for answer in alone}) > 2, (
        "no answer is ended early: this would show nothing"
    )
    together = backbone.generate(chats, LONG)
    assert [(one.ids, one.text) for one in together] == [(one.ids, one.text) for one in alone]
    assert not any(stop in answer.text for answer in together for stop in stops)


@pytest.mark.parametrize(
    "text", ["what is <image> for", "</s> and <s>", "<pad><image><image>", "a plain text"]
)
def test_a_request_that_spells_out_a_control_token_is_plain_text_and_fails_nobody(
    backbone: Backbone, text: str
) -> None:
    chats = [Chat.ask("hello", [picture(0)]), Chat.ask(text, [picture(1)])]
    image_id = backbone.tokenizer.convert_tokens_to_ids("<image>")
    ids = backbone.encode(chats).inputs["input_ids"]
    assert (ids == image_id).sum(-1).tolist() == [4, 4]
    special = set(backbone.tokenizer.all_special_ids) - {image_id, backbone.tokenizer.pad_token_id}
    assert not special & set(ids[1].tolist())
    for asked in (chats, [chat.without_images() for chat in chats]):
        alone = [backbone.generate([chat], LONG)[0].ids for chat in asked]
        assert [answer.ids for answer in backbone.generate(asked, LONG)] == alone
