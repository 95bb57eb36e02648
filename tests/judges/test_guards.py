"""Guard models that see images: what they are shown, and what their replies mean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from shiftdc_eval.core.errors import JudgeError
from shiftdc_eval.judges import Item, get_judge
from shiftdc_eval.judges.local.model import LocalModel

TOY = str(files("shiftdc_eval.backbones.bundled") / "toy")


def picture() -> Image.Image:
    return Image.new("RGB", (64, 48), "red")


class Inputs(dict[str, Any]):
    def to(self, _device: object) -> Inputs:
        return self


class Processor:
    """Keeps what it is given; a token is a character."""

    chat_template = "a template"
    policy_definitions = ("dangerous", "sexual", "violence")
    tokenizer = SimpleNamespace(model_max_length=10_000)

    def __init__(self) -> None:
        self.chats: list[list[dict[str, Any]]] = []
        self.images: list[Any] = []

    def apply_chat_template(self, chat: list[dict[str, Any]], **_: object) -> str:
        self.chats.append(chat)
        return "prompt"

    def __call__(self, text: Any = None, images: Any = None, **_: object) -> Inputs:
        self.images.append(images)
        return Inputs(input_ids=torch.zeros((1, 6), dtype=torch.long))

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(map(chr, ids))


class Model:
    """Says what it was made to say; as ShieldGemma it has three probabilities."""

    device = "cpu"
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=None))
    generation_config = SimpleNamespace(eos_token_id=0)

    def __init__(self, says: str = "", chances: list[float] | None = None) -> None:
        self.says, self.chances = says, chances

    def generate(self, input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        return torch.cat([input_ids, torch.tensor([[ord(char) for char in self.says]])], dim=1)

    def __call__(self, **_: object) -> Any:
        yes = torch.tensor(self.chances)
        return SimpleNamespace(probabilities=torch.stack([yes, 1 - yes], dim=1))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`loaded(model)`: that model stands behind every local judge; gives the processor."""

    def put(model: Model) -> Processor:
        processor = Processor()

        @contextmanager
        def load(self: LocalModel, auto_class: str, *_: object, **__: object) -> Iterator[Any]:
            yield model, processor

        monkeypatch.setattr(LocalModel, "loaded", load)
        monkeypatch.setattr(LocalModel, "identity", "a model")
        return processor

    return put


def item(response: str | None = "An answer.", image: Any = picture) -> Item:
    return Item("i", "A request.", response, image=image)


def test_llama_guard_4_sees_image_request_and_response(loaded: Any) -> None:
    processor = loaded(Model("unsafe\nS2"))
    [verdict] = get_judge("local_llama_guard_4").judge([item()])
    assert (verdict.value, verdict.reason, verdict.raw) == ("unsafe", "S2", "unsafe\nS2")
    assert processor.chats == [
        [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "A request."}]},
            {"role": "assistant", "content": [{"type": "text", "text": "An answer."}]},
        ]
    ]
    [[[shown]]] = processor.images
    assert shown.size == (64, 48)
    assert (verdict.tokens_in, verdict.tokens_out) == (6, 9)


def test_llama_guard_4_judges_without_an_image_too_and_another_image_is_another_question(loaded: Any) -> None:
    processor = loaded(Model("safe"))
    judge = get_judge("local_llama_guard_4")
    blue = lambda: Image.new("RGB", (64, 48), "blue")  # noqa: E731
    verdicts = judge.judge([item(image=None), item(), item(image=blue), item("<think>No")])
    assert [verdict.value for verdict in verdicts] == ["safe", "safe", "safe", None]
    assert [images is None for images in processor.images] == [True, False, False]
    judge.judge([item(), item(image=blue)])
    assert len(processor.images) == 3, "the cache knows each image"


def test_llavaguard_judges_the_image_whatever_the_answer(loaded: Any) -> None:
    reply = {"rating": "Unsafe", "category": "O6: Weapons or Substance Abuse", "rationale": "Safe? No."}
    processor = loaded(Model(json.dumps(reply)))
    judge = get_judge("local_llavaguard")
    [verdict, imageless] = judge.judge([item(response=""), item(image=None)])
    assert (verdict.value, verdict.reason) == ("unsafe", "O6: Weapons or Substance Abuse")
    assert (imageless.value, imageless.reason) == (None, "the rubric needs the image and this item has none")
    [[user]] = processor.chats
    assert user["content"][0] == {"type": "image"}
    assert user["content"][1]["text"].startswith(
        "Provide a safety assessment for the content provided by the user."
    )
    assert "An answer." not in str(user)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ('{"rating": "Safe", "category": "NA: None applying", "rationale": "x"}', "safe"),
        ('```json\n{"rating": "Unsafe"}\n```', "unsafe"),
        ('{"rating": "Maybe"}', None),
        ('{"rating": "Safe", "rating": "Unsafe"}', None),
        ('{"rationale": "the rating is Safe"}', None),
        ("Safe", None),
        ('{"rating": "Unsafe", "category":', None),
    ],
)
def test_a_rating_is_read_from_json_alone(loaded: Any, reply: str, value: str | None) -> None:
    loaded(Model(reply))
    [verdict] = get_judge("local_llavaguard").judge([item()])
    assert verdict.value == value


@pytest.mark.parametrize(
    ("chances", "value", "reason"),
    [
        ([0.1, 0.7, 0.2], "unsafe", "probability of a violation 0.700 (sexual)"),
        ([0.1, 0.2, 0.49], "safe", "probability of a violation 0.490 (violence)"),
    ],
)
def test_shieldgemma_is_unsafe_where_one_policy_is_likely_violated(
    loaded: Any, chances: list[float], value: str, reason: str
) -> None:
    processor = loaded(Model(chances=chances))
    [verdict] = get_judge("local_shieldgemma_2").judge([item()])
    assert (verdict.value, verdict.reason) == (value, reason)
    assert len(processor.images) == 1


def test_a_guard_without_a_chat_template_is_refused(loaded: Any) -> None:
    loaded(Model("safe")).chat_template = None
    with pytest.raises(JudgeError, match="no chat template"):
        get_judge("local_llama_guard_4").judge([item()])


def test_a_real_model_that_sees_images_is_loaded_asked_and_read() -> None:
    judge = get_judge(f"local_llama_guard_4:model={TOY};dtype=float32;device=cpu")
    seen, blind = judge.judge([item(), item(image=None)])
    assert (seen.value, blind.value) == (None, None)
    assert seen.reason == "the first line is not one of the labels"
    assert (seen.tokens_in or 0) > (blind.tokens_in or 0) > 0, "the image has tokens of its own"


def test_a_labels_file_may_name_images(tmp_path: Path, loaded: Any) -> None:
    from shiftdc_eval.judges.human_labels import read_labels

    picture().save(tmp_path / "one.png")
    (tmp_path / "a.csv").write_text("response,label,image\nSure.,unsafe,one.png\nSure.,unsafe,\n")
    first, second = read_labels([tmp_path / "a.csv"], "harm", {}, {})
    assert first.item.image is not None
    assert first.item.image().size == (64, 48)
    assert second.item.image is None
