"""A checkpoint that lacks weights, or holds others, is refused: transformers would draw random numbers instead."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from judge_models import save_classifier
from safetensors.torch import load_file, save_file
from tiny_families import save_family
from torch import Tensor

from shiftdc_eval.backbones import ModelSpec, load_backbone
from shiftdc_eval.cli import main
from shiftdc_eval.core.errors import JudgeError, ModelError
from shiftdc_eval.judges.local.model import LocalModel

PROJECTOR = {"llava": "multi_modal_projector.linear_1", "minigpt4": "llama_proj", "qwen_vl": "attn_pool.ln_q"}
Change = Callable[[dict[str, Tensor], str], dict[str, Tensor]]


def damage(folder: Path, change: Change, part: str) -> None:
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    assert any(part in name for name in weights)
    changed = {name: tensor.clone() for name, tensor in change(weights, part).items()}
    save_file(changed, path, metadata={"format": "pt"})


def renamed(weights: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.replace(part, f"{part}_old"): tensor for name, tensor in weights.items()}


def dropped(weights: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if part not in name}


def reshaped(weights: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name: tensor[:-1] if part in name else tensor for name, tensor in weights.items()}


def added(weights: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    return {**weights, f"model.{part}.adapter": torch.zeros(2)}


CASES = {
    renamed: r"2 missing \(\S*{part}\.bias, \S*{part}\.weight\), 2 unexpected \(\S*{part}_old\.bias",
    dropped: r": 2 missing \(\S*{part}\.bias, \S*{part}\.weight\); ",
    reshaped: r": 2 of another shape \(\S*{part}\.bias \[\d+\] for \[\d+\]",
    added: r": 1 unexpected \(\S*{part}\.adapter\); ",
}


@pytest.mark.parametrize("change", CASES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("family", PROJECTOR)
def test_weights_that_are_not_the_models_end_loading(family: str, change: Change, tmp_path: Path) -> None:
    folder = save_family(family, tmp_path / family)
    load_backbone(ModelSpec(str(folder), device="cpu"))
    damage(folder, change, PROJECTOR[family])
    said = CASES[change].replace("{part}", PROJECTOR[family].replace(".", r"\."))
    with pytest.raises(ModelError, match=said) as raised:
        load_backbone(ModelSpec(str(folder), device="cpu"))
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_doctor_finds_it_in_one_line(
    tiny_llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_family("llava", tmp_path / "llava")
    damage(folder, renamed, PROJECTOR["llava"])
    assert main(["doctor", str(folder), "--device", "cpu"]) != 0
    said = capsys.readouterr().err.strip().splitlines()
    assert "2 missing (" in said[-1]
    assert not any("LOAD REPORT" in line for line in said)


def test_a_judge_without_its_head_is_refused(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "judge")
    model = LocalModel(str(folder), device="cpu")
    with model.loaded("AutoModelForSequenceClassification"):
        pass
    damage(folder, dropped, "score")
    with (
        pytest.raises(JudgeError, match=r"1 missing \(score\.weight\)"),
        model.loaded("AutoModelForSequenceClassification"),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("generation_config.json", "{oops", "generation_config.json: not JSON"),
        ("config.json", "[]", "config.json: expected an object"),
        ("model.safetensors.index.json", '{"weight_map": {}}', "it names no weights"),
        ("model.safetensors.index.json", '{"weight_map": {"a": "model-2.safetensors"}}', r"there: model-2\.safetensors"),
        ("config.json", '{"model_type": "llava", "text_config": {"num_hidden_layers": "four"}}', "expected int, got str"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_named_in_one_line(name: str, content: str, said: str, tmp_path: Path) -> None:
    folder = save_family("llava", tmp_path / "llava")
    (folder / name).write_text(content)
    with pytest.raises(ModelError, match=said) as raised:
        load_backbone(ModelSpec(str(folder), device="cpu"))
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)
