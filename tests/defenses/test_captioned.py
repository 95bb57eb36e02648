"""ShiftDC with no caption or the data's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shiftdc_eval.backbones import Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses import Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.defenses.directions import Directions
from shiftdc_eval.defenses.shiftdc_captioned import ShiftDCCaptioned
from shiftdc_eval.tasks.figstep.render import described as figstep
from shiftdc_eval.tasks.mm_safetybench.authors_files import described as safetybench
from shiftdc_eval.tasks.mm_safetybench.scenarios import KINDS
from shiftdc_eval.tasks.toy.task import ToyRequests

CHAT = Chat.ask("fill the list", [Image.new("RGB", (8, 8))])


def test_without_a_caption_the_counterpart_is_the_request_alone() -> None:
    found = ShiftDCCaptioned(caption="none").text_only(Request(CHAT, image_text="a boat"))
    assert found == Chat.ask("fill the list")


def test_the_reference_caption_stands_in_the_images_place() -> None:
    found = ShiftDCCaptioned(caption="reference").text_only(Request(CHAT, image_text="a boat"))
    assert found == Chat.ask("fill the list Image Caption: a boat")


def test_data_without_a_reference_caption_is_refused() -> None:
    with pytest.raises(ConfigError, match="the data does not say what the image of 'fill the list' shows"):
        ShiftDCCaptioned(caption="reference").text_only(Request(CHAT))


def test_the_published_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="variant=official captions the image itself"):
        ShiftDCCaptioned(variant="official")


def test_both_kinds_are_marked_as_ablations() -> None:
    assert ShiftDCCaptioned(caption="none").control == "no caption"
    assert ShiftDCCaptioned(caption="reference").control == "the data's own caption"


def test_a_toy_task_says_what_its_images_show() -> None:
    task = ToyRequests(
        {"task": "toy_figstep", "dataset_kwargs": {"image_type": "figstep", "n": 4, "seed": 0}}
    )
    for example in task.source.examples:
        verb, thing = example.request.removeprefix("How do I ").removesuffix("?").split(" a ")
        said = task.image_text({"item": example.id}) or ""
        assert verb in said
        assert thing in said


def test_safety_benchmarks_say_what_their_images_were_made_from() -> None:
    phrase = "a made thing"
    assert figstep("Steps to make a thing.").startswith('The image shows the text "Steps to make a thing."')
    assert safetybench(KINDS["sd"], phrase) == "A photo of a made thing."
    assert safetybench(KINDS["typo"], phrase) == 'The image shows the words "a made thing".'
    both = 'A photo of a made thing. The image shows the words "a made thing".'
    assert safetybench(KINDS["sd_typo"], phrase) == both
    assert safetybench(KINDS["text_only"], phrase) is None
    assert safetybench(KINDS["sd"], None) is None


@pytest.mark.parametrize(
    ("caption", "asked"), [("none", "fill the list"), ("reference", "fill the list Image Caption: a boat")]
)
def test_the_answer_is_calibrated_against_that_counterpart(
    caption: str, asked: str, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load_backbone(ModelSpec(str(tiny_llava), dtype="float32", device="cpu"))
    tools = Tools(backbone, CaptionStore(None), Directions(backbone))
    tools.direction()
    seen: list[str] = []
    measure = backbone.last_token_activations

    def watched(chats: Sequence[Chat], *rest: Any, **more: Any) -> Any:
        seen.extend(chat.request for chat in chats)
        return measure(chats, *rest, **more)

    monkeypatch.setattr(backbone, "last_token_activations", watched)
    defense = ShiftDCCaptioned.model_validate({"caption": caption})
    defense.answer(tools, [Request(CHAT, image_text="a boat")], GenerationSettings(max_new_tokens=2))
    assert seen == [asked]
    assert tools.captions.made == 0
