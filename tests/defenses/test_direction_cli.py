"""Fitting, showing, caching and refusing directions, through the command line where a user meets them."""

import json
from pathlib import Path

import pytest
import torch

from shiftdc_eval.backbones import Backbone, ModelSpec, load_backbone
from shiftdc_eval.cli import main
from shiftdc_eval.core.paths import cache_dir
from shiftdc_eval.defenses.contrast import load_contrast
from shiftdc_eval.defenses.directions import Directions, Fit, cached, fit, separation
from shiftdc_eval.steering import SafetyDirection


@pytest.fixture(scope="module")
def backbone(tiny_llava: Path) -> Backbone:
    return load_backbone(ModelSpec(str(tiny_llava), device="cpu"))


@pytest.fixture
def contrast_file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    lines = [{"unsafe": f"forge pass number {n}", "safe": f"paint kite number {n}"} for n in range(20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_fit_writes_a_direction_that_the_model_accepts(
    tiny_llava: Path,
    backbone: Backbone,
    contrast_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "d.safetensors"
    arguments = ["--pretrained", str(tiny_llava), "--contrast", str(contrast_file), "--device", "cpu"]
    assert main(["direction", "fit", *arguments, "-o", str(out)]) == 0
    assert "4 layers x 32, 16 safe and 16 unsafe texts" in capsys.readouterr().out
    assert SafetyDirection.load(out).revision == backbone.revision
    assert Directions(backbone, path=out)().sha256 == SafetyDirection.load(out).sha256


def test_the_direction_is_the_difference_of_the_means(backbone: Backbone, contrast_file: Path) -> None:
    from shiftdc_eval.backbones import Chat

    contrast = load_contrast(contrast_file)
    fitted, held_out = contrast.split(0.2)
    assert len(fitted.pairs) == 16
    assert len(held_out.pairs) == 4
    means = [
        torch.cat([backbone.last_token_activations([Chat.ask(text)]) for text in fitted.prompts(side)]).mean(
            0
        )
        for side in ("safe", "unsafe")
    ]
    torch.testing.assert_close(
        fit(backbone, contrast, batch_size=5).vectors, means[0] - means[1], rtol=1e-4, atol=1e-4
    )


def test_show_prints_separation_and_writes_the_plot(
    tiny_llava: Path, contrast_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "plots" / "direction.svg"
    arguments = ["--pretrained", str(tiny_llava), "--contrast", str(contrast_file), "--device", "cpu"]
    assert main(["direction", "show", *arguments, "--plot", str(plot)]) == 0
    assert "AUROC" in capsys.readouterr().out
    assert plot.read_text().lstrip().startswith("<?xml")


def test_a_direction_is_fitted_once_and_then_found(backbone: Backbone, contrast_file: Path) -> None:
    contrast = load_contrast(contrast_file)
    first = cached(backbone, contrast)
    passes = backbone.forward_passes
    assert torch.equal(cached(backbone, contrast).vectors, first.vectors)
    assert backbone.forward_passes == passes
    assert len(list((cache_dir() / "directions").glob("*.safetensors"))) == 1
    assert cached(backbone, contrast, how=Fit(post_norm_last=True)).sha256 != first.sha256


def test_separation_finds_a_planted_direction(backbone: Backbone, contrast_file: Path) -> None:
    rows = separation(backbone, fit(backbone, load_contrast(contrast_file)), load_contrast(contrast_file))
    assert [row.layer for row in rows] == [0, 1, 2, 3]
    assert rows[-1].auroc >= 0.9, (
        "the sides differ in two words of four: even a random model tells them apart"
    )
    assert rows[-1].cosine_next is None


def test_a_direction_of_another_model_ends_in_one_line(
    tiny_llava: Path, contrast_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tiny_models import save_tiny_llava

    out = tmp_path / "d.safetensors"
    arguments = ["--contrast", str(contrast_file), "--device", "cpu"]
    main(["direction", "fit", "--pretrained", str(tiny_llava), *arguments, "-o", str(out)])
    other = save_tiny_llava(tmp_path / "other", layers=3)
    assert main(["direction", "show", "--pretrained", str(other), *arguments, "--direction", str(out)]) == 2
    said = capsys.readouterr().err
    assert "decoder layers 4 (here 3)" in said
    assert "Traceback" not in said


@pytest.mark.usefixtures("few_pairs")
def test_a_refusal_layer_is_chosen_once_for_all_cells_of_a_grid(tiny_llava: Path) -> None:
    backbone = load_backbone(ModelSpec(str(tiny_llava), device="cpu"))
    first = Directions(backbone).refusal_layer()
    passes = backbone.forward_passes
    assert Directions(backbone).refusal_layer() == first
    assert backbone.forward_passes == passes
