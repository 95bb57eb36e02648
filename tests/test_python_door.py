"""The package used from Python: docs/python.md as it stands, and the same answers as through lmms-eval."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hand_made_requests import through_the_adapter
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

import shiftdc_eval as sd
from shiftdc_eval.backbones import GenerationSettings, Turn
from shiftdc_eval.core.errors import ConfigError, DataError, DirectionError
from shiftdc_eval.defenses import DEFENSES
from shiftdc_eval.defenses.shiftdc import counterpart

DOCS = Path(__file__).resolve().parents[1] / "docs" / "python.md"
RED = Image.new("RGB", (40, 30), "red")
CHATS = [sd.Chat.ask("What is shown?", [RED]), sd.Chat.ask("Say yes."), sd.Chat.ask("And now?", [RED])]


@pytest.fixture(scope="module")
def model(tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> sd.DefendedModel:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIFTDC_CACHE", str(tmp_path_factory.mktemp("cache")))
        return sd.load(tiny_llava, device="cpu", contrast=_small_set(tmp_path_factory.mktemp("contrast")))


def _small_set(folder: Path) -> Path:
    from shiftdc_eval.backbones.bundled.registry import BUNDLED

    lines = (BUNDLED["toy"]()[0] / "contrast.jsonl").read_text().splitlines()[:20]
    (folder / "contrast.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "contrast.jsonl"


def test_the_documented_lines_show_the_shift_and_its_repair(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), flags=re.S)
    assert len([line for line in code.splitlines() if line]) <= 10
    scope: dict[str, Any] = {}
    exec(compile(code, str(DOCS), "exec"), scope)
    first, none, shiftdc, _ = capsys.readouterr().out.split("\n", 3)
    assert re.fullmatch(r"SafetyDirection\(8 layers x 192, .*sha256 [0-9a-f]{12}\)", first)
    assert len(first) < 120
    assert [none.split()[0], shiftdc.split()[0]] == ["none", "shiftdc"]
    assert [none.count("I cannot help"), shiftdc.count("I cannot help")] == [0, 3]
    shift = scope["model"].shift(scope["requests"])
    assert shift.shape == (4, 8)
    assert 0.6 < shift.mean(0)[-1] < 0.8


def test_importing_the_package_imports_none_of_it() -> None:
    code = "import sys, shiftdc_eval as sd; print(sd.__version__, 'torch' in sys.modules, 'load' in dir(sd))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\S+ False True\n", done.stdout)
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = sd.lod


@pytest.mark.parametrize(
    ("defense", "settings"),
    [
        ("none", {}),
        ("adashield_s", {}),
        ("shiftdc", {"caption_max_new_tokens": 6, "alpha": 8.0}),
        ("ecso", {"caption_max_new_tokens": 6, "tell_max_new_tokens": 4}),
    ],
)
def test_answers_are_those_of_the_adapter(
    model: sd.DefendedModel, tmp_path: Path, defense: str, settings: dict[str, Any]
) -> None:
    model.direction().save(tmp_path / "direction.safetensors")
    theirs = through_the_adapter(
        model.backbone,
        CHATS,
        tmp_path / "journal",
        defense=defense,
        **({"direction": tmp_path / "direction.safetensors"} if defense == "shiftdc" else {}),
        **settings,
    )
    ours = model.answer(CHATS, defense=defense, max_new_tokens=8, **settings)
    assert [answer.text for answer in ours] == theirs


def test_the_shift_is_that_of_the_activations_written_out(model: sd.DefendedModel) -> None:
    chats = [CHATS[0], CHATS[2]]
    found = model.shift(chats, caption_max_new_tokens=5)
    vectors = model.direction().vectors
    for chat, row in zip(chats, found, strict=True):
        caption = model.answer([chat], defense="shiftdc", max_new_tokens=1, caption_max_new_tokens=5)[0].extra
        pair = [chat, counterpart(chat, caption["caption"])]
        image, alone = (model.backbone.last_token_activations([one])[0] for one in pair)
        expected = [
            float((image[layer] - alone[layer]) @ vectors[layer] / (vectors[layer] @ vectors[layer]))
            for layer in range(4)
        ]
        assert row.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_chat_without_an_image_has_no_shift(model: sd.DefendedModel) -> None:
    with pytest.raises(ConfigError, match="chat 1 has no image"):
        model.shift(CHATS)


class Modes(sd.Settings):
    """Answers with the modes of the images it is given."""

    name: ClassVar[str] = "modes"

    def answer(self, tools: Any, requests: Sequence[sd.Request], settings: Any) -> list[sd.Answer]:
        return [sd.Answer(" ".join(i.mode for i in request.chat.images), 0, 0) for request in requests]


def test_a_defense_sees_images_as_the_adapter_gives_them(
    model: sd.DefendedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sd.DEFENSES, "modes", Modes)
    chats = [sd.Chat.ask("hello", [RED.convert(mode) for mode in ("RGBA", "P", "L", "RGB")])]
    assert model.answer(chats, defense="modes")[0].text == "RGB RGB RGB RGB"


def test_sampled_answers_are_fixed_by_the_seed(model: sd.DefendedModel) -> None:
    def drawn(seed: int, size: int) -> list[str]:
        model.batch_size = size
        answers = model.answer(CHATS, seed=seed, do_sample=True, temperature=2.0, max_new_tokens=12, top_k=50)
        return [answer.text for answer in answers]

    try:
        assert drawn(0, 8) == drawn(0, 1) != drawn(1, 8)
    finally:
        model.batch_size = 8


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"defense": "shiftd"}, "argument defense=shiftd is unknown; did you mean shiftdc?"),
        ({"defense": "shiftdc", "alpa": 1}, "unknown argument alpa; did you mean alpha?"),
        ({"defense": "shiftdc", "alpha": "x"}, "argument alpha=x: "),
        ({"defense": "none", "alpha": 1}, "unknown argument alpha"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 is out of range"),
    ],
)
def test_a_wrong_argument_is_one_line(model: sd.DefendedModel, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        model.answer(CHATS, **given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("defense", "given", "said"),
    [
        ("recentred_refusal", {"layer": 4}, "layer=4 does not fit a model with decoder layers 0 to 3"),
        ("subspace", {"rank": 33}, "rank=33 does not fit a model of width 32"),
        (
            "none",
            {"gate": "hidden_detect", "gate_layers": "1-4"},
            "gate=hidden_detect: layers=1-4 does not fit",
        ),
    ],
)
def test_a_setting_that_does_not_fit_the_model_is_one_line(
    model: sd.DefendedModel, defense: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        model.answer(CHATS, defense=defense, **given)


def test_a_wrong_model_argument_is_one_line() -> None:
    with pytest.raises(ConfigError, match="unknown model argument dtpye; did you mean dtype"):
        sd.load("toy", dtpye="float32")
    with pytest.raises(ConfigError, match="model argument engine=faster"):
        sd.load("toy", engine="faster")


class TestOwnModel:
    """A transformers model that the user has loaded."""

    @staticmethod
    def loaded(folder: Path) -> tuple[Any, Any]:
        return LlavaForConditionalGeneration.from_pretrained(folder), AutoProcessor.from_pretrained(folder)

    def test_answers_as_the_same_model_by_its_name(self, model: sd.DefendedModel, tiny_llava: Path) -> None:
        own = sd.wrap(*self.loaded(tiny_llava))
        expected = [answer.text for answer in model.answer(CHATS, max_new_tokens=8)]
        assert [answer.text for answer in own.answer(CHATS, max_new_tokens=8)] == expected

    def test_revision_follows_weights_and_settings(self, tiny_llava: Path) -> None:
        mine, processor = self.loaded(tiny_llava)
        before = sd.wrap(mine, processor).backbone.revision
        assert sd.wrap(*self.loaded(tiny_llava)).backbone.revision == before
        mine.generation_config.repetition_penalty = 1.3
        other = sd.wrap(mine, processor).backbone.revision
        with torch.no_grad():
            next(mine.parameters()).view(-1)[0] += 1e-3
        assert len({before, other, sd.wrap(mine, processor).backbone.revision}) == 3
        assert sd.wrap(mine, processor, revision="mine-2", name="mine").backbone.revision == "mine-2"

    def test_a_direction_of_other_weights_is_refused(
        self, model: sd.DefendedModel, tiny_llava: Path, tmp_path: Path
    ) -> None:
        model.direction().save(tmp_path / "direction.safetensors")
        same = model.with_direction(tmp_path / "direction.safetensors")
        assert same.direction().sha256 == model.direction().sha256
        with pytest.raises(DirectionError, match="was made for weights"):
            sd.wrap(*self.loaded(tiny_llava)).with_direction(tmp_path / "direction.safetensors")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", "4"),
        ("max_new_tokens", True),
        ("max_new_tokens", 2.5),
        ("do_sample", "false"),
        ("use_cache", "no"),
        ("temperature", float("inf")),
        ("top_k", 2.5),
        ("until", 5),
        ("until", [5]),
    ],
)
def test_a_decoding_setting_of_the_wrong_type_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"generation setting {name}="):
        GenerationSettings(**{name: value})  # type: ignore[arg-type]


def test_one_stop_string_is_not_taken_letter_by_letter() -> None:
    assert GenerationSettings(until="Then").until == ("Then",)  # type: ignore[arg-type]
    assert GenerationSettings(until=["a", "b"]).until == ("a", "b")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, "x", 2.5, True])
def test_a_batch_size_that_is_none_is_refused_before_the_first_answer(size: object) -> None:
    with pytest.raises(ConfigError, match="batch_size="):
        sd.load("toy", batch_size=size)  # type: ignore[arg-type]


def test_a_path_is_no_image_and_a_text_no_chat() -> None:
    with pytest.raises(ConfigError, match=r"PIL\.Image\.open"):
        sd.Chat.ask("what is this", ["/tmp/a.png"])  # type: ignore[list-item]
    model = sd.load("toy")
    for wrong in ("hi", ["hi"], sd.Chat.ask("hi")):
        with pytest.raises(ConfigError, match="give a list of chats"):
            model.answer(wrong)  # type: ignore[arg-type]


@pytest.mark.usefixtures("few_pairs")
def test_a_model_with_another_direction_keeps_its_contrast_set(tmp_path: Path) -> None:
    model = sd.load("toy")
    model.direction().save(str(tmp_path / "direction.safetensors"))
    other = sd.load("toy", contrast=tmp_path / "none.jsonl").with_direction(
        str(tmp_path / "direction.safetensors")
    )
    assert other.direction().sha256 == model.direction().sha256
    with pytest.raises(DataError, match=r"none\.jsonl"):
        other.answer([sd.Chat.ask("hi")], defense="refusal_direction")


@pytest.mark.parametrize("name", ["shiftdc", "cmrm", "refusal_direction"])
def test_one_layer_may_be_given_as_a_number(name: str) -> None:
    assert DEFENSES[name](layers=3).layers == "3"


def _own(tiny_llava: Path) -> tuple[Any, Any]:
    return (
        LlavaForConditionalGeneration.from_pretrained(tiny_llava),
        AutoProcessor.from_pretrained(tiny_llava),
    )


def test_what_cannot_be_wrapped_is_one_line(tiny_llava: Path) -> None:
    own, processor = _own(tiny_llava)
    for given, said in (
        (
            (own, None),
            "the processor is a NoneType, which takes no images; give the model's own: AutoProcessor",
        ),
        ((own, processor.tokenizer), "the processor is a .*, which takes no images"),
        ((own.model, processor), "LlavaModel has no language-model head: it cannot answer"),
        (("toy", processor), "the model is a str, not a loaded model of transformers"),
        ((processor, own), "the model is a LlavaProcessor, not a loaded model"),
    ):
        with pytest.raises(ConfigError, match=said) as raised:
            sd.wrap(*given)
        assert "\n" not in str(raised.value)
    for argument in ("revision", "name"):
        with pytest.raises(ConfigError, match=f"{argument}=5 is a int, not a text"):
            sd.wrap(own, processor, **{argument: 5})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: sd.Chat([]), "no user turn: there is nothing to answer"),
        (lambda: sd.Chat((Turn("system", ("a",)),)), "no user turn"),
        (lambda: sd.Chat("words"), "a chat is made of turns, not of 'words'"),
        (lambda: sd.Chat((Turn("user", (None,)),)), "a part of the user turn is a NoneType, neither"),
        (lambda: sd.Chat.ask(None), "the request is a NoneType, not a text"),
        (lambda: sd.Chat.ask("a", [Image.new("RGB", (0, 0))]), "an image of the user turn has 0 x 0 pixels"),
        (lambda: sd.Chat.ask("a", [Image.new("RGB", (0, 5))]), "has 0 x 5 pixels"),
        (lambda: sd.Chat.ask("a", "photo.png"), "is a str, not an image"),
        (lambda: sd.Chat.ask("a", Image.new("RGB", (4, 4))), "give a list of images"),
    ],
)
def test_what_is_no_chat_is_one_line(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
