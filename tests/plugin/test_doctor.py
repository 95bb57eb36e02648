import json
from pathlib import Path
from typing import Any

import pytest
import tiny_families
import transformers as hf
from alone import ALONE
from tiny_families import save_family
from tiny_models import tiny_tokenizer

from shiftdc_eval import cli
from shiftdc_eval.backbones import ModelSpec
from shiftdc_eval.backbones.native import register
from shiftdc_eval.backbones.tiny_random import load_twin
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.defenses import DEFENSES

pytestmark = pytest.mark.usefixtures("few_pairs")


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = cli.main(["doctor", "--device", "cpu", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def only_config(folder: Path) -> Path:
    """Take the weights away."""
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    return folder


@pytest.fixture
def two_defenses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `none` and `cmrm` are tried."""
    for name in set(DEFENSES) - {"none", "cmrm"}:
        monkeypatch.delitem(DEFENSES, name)


@pytest.fixture(scope="module")
def mllama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("mllama", tmp_path_factory.mktemp("doctor") / "mllama")


def test_a_healthy_model_is_described_and_every_defense_tried(
    mllama: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = doctor(capsys, str(mllama))
    assert status == 0
    facts = {line[:18].strip(): line[18:].strip() for line in out.splitlines()}
    assert facts["architecture"] == "MllamaForConditionalGeneration, processor MllamaProcessor"
    assert "<|image|>Describe what is shown here.<|eot_id|>" in facts["template"]
    assert facts["prompt tokens"] == "33 with the image (1 image tokens), 32 without"
    assert facts["decoder layers"] == "4 of width 32"
    assert facts["cross-attention"].startswith("layers 1, 3 run only with an image")
    assert facts["dtype and device"] == "float32 on cpu"
    assert "KV cache" in facts["memory estimate"]
    assert [line for line in out.splitlines() if line.startswith("defense=")] == [
        line for line in out.splitlines() if any(line.startswith(f"defense={name} ") for name in DEFENSES)
    ]
    assert out.count("ok, ") == len(ALONE) - 1
    assert (
        "defense=rai                not tried: it needs edit_image, which this model has not"
        in out.splitlines()
    )
    assert (
        "not tried: it needs RLHFlow/ArmoRM-Llama3-8B-v0.1 and openai/clip-vit-large-patch14-336 too" in out
    )


@pytest.mark.usefixtures("two_defenses")
def test_runs_of_image_tokens_are_shown_once_with_their_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = doctor(capsys, str(save_family("llava", tmp_path / "llava")))
    assert "USER: <image>[x4]\\nDescribe what is shown here. ASSISTANT:" in out


@pytest.mark.parametrize(
    "name",
    ["llava", "gemma3", "qwen2_vl", "qwen3_vl", "mllama", "paligemma2", "internvl", "minigpt4", "qwen_vl"],
)
def test_a_twin_is_cut_down_from_the_configuration_and_needs_no_weights(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_families, "TEXT", {**tiny_families.TEXT, "num_hidden_layers": 8})
    monkeypatch.setattr(tiny_families, "LAYERS", 8)
    if name == "gemma3":
        pattern = ["sliding_attention", "full_attention"] * 4
        real = hf.Gemma3TextConfig
        monkeypatch.setattr(
            tiny_families.hf, "Gemma3TextConfig", lambda **kw: real(**{**kw, "layer_types": pattern})
        )
    if name == "paligemma2":
        pattern = ["sliding_attention", "full_attention"] * 4
        second = hf.Gemma2Config
        monkeypatch.setattr(
            tiny_families.hf, "Gemma2Config", lambda **kw: second(**{**kw, "layer_types": pattern})
        )
    folder = save_family(name, tmp_path / name)
    register()
    count = sum(p.numel() for p in hf.AutoModelForImageTextToText.from_pretrained(folder).parameters())
    backbone, size = load_twin(ModelSpec(str(only_config(folder)), device="cpu"))
    assert (size.layers, len(backbone.layers)) == (8, 4)
    assert size.parameters == count
    assert backbone.revision == "random weights"


@pytest.mark.slow
def test_a_seven_billion_model_is_checked_without_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in set(DEFENSES) - {"none", "shiftdc"}:
        monkeypatch.delitem(DEFENSES, name)
    _, processor = tiny_families.llava()
    processor.image_processor = hf.CLIPImageProcessor(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
    )
    config = hf.LlavaConfig(  # sizes of LLaVA-1.5-7B
        vision_config=hf.CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=336,
            patch_size=14,
            projection_dim=768,
        ),
        text_config=hf.LlamaConfig(vocab_size=32064, pad_token_id=0, bos_token_id=1, eos_token_id=2),
        image_token_index=processor.image_token_id,
    )
    config.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    status, out, _ = doctor(capsys, str(tmp_path), "--random-weights", "--dtype", "float32")
    assert status == 0, out
    assert "decoder layers     32 of width 4096" in out
    assert "(576 image tokens)" in out
    assert "parameters         7,063,427,072" in out
    assert "weights 26.31 GiB" in out


@pytest.mark.usefixtures("two_defenses")
def test_settings_of_the_model_that_change_greedy_answers_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_family("qwen2_vl", tmp_path / "model")
    assert "stay in force" not in doctor(capsys, str(folder))[1]
    settings = folder / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "repetition_penalty": 1.05}))
    _, out, _ = doctor(capsys, str(folder))
    assert "the model's own settings stay in force: repetition_penalty=1.05" in out


@pytest.mark.usefixtures("two_defenses")
def test_a_defense_that_fails_is_named_and_the_status_is_1(
    mllama: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise ModelError("no such layer\nsecond line")

    monkeypatch.setattr(DEFENSES["cmrm"], "answer", fail)
    status, out, _ = doctor(capsys, str(mllama))
    assert status == 1
    assert [line for line in out.splitlines() if "FAILED" in line] == [
        "defense=cmrm               FAILED: no such layer"
    ]


def language_model(folder: Path) -> str:
    config = hf.LlamaConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=500
    )
    hf.LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return "takes no images"


def original_llava(folder: Path) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llava", "mm_vision_tower": "openai/clip-vit-large-patch14-336"})
    )
    return "`shiftdc-eval convert llava SRC DST`"


def refusing_template(folder: Path) -> str:
    save_family("mllama", folder)
    template = folder / "chat_template.jinja"
    template.write_text("{{ raise_exception('no images beside a system message') }}" + template.read_text())
    return "no images beside a system message"


def unknown_type(folder: Path) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "never-heard-of"}))
    return "never-heard-of"


def no_template(folder: Path) -> str:
    save_family("llava", folder)
    (folder / "chat_template.jinja").unlink()
    return "does not have a chat template"


def no_weights(folder: Path) -> str:
    only_config(save_family("llava", folder))
    return "model.safetensors"


@pytest.mark.parametrize(
    "make", [language_model, original_llava, unknown_type, no_template, no_weights, refusing_template]
)
def test_an_unsupported_model_ends_in_one_line_that_names_what_is_missing(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = make(tmp_path / "model")
    status, _, err = doctor(capsys, str(tmp_path / "model"))
    last = [line for line in err.splitlines() if line.startswith("shiftdc-eval doctor:")]
    assert status == 2
    assert len(last) == 1
    assert said in last[0]
    assert err.rstrip().splitlines()[-1] == last[0]
