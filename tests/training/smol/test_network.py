"""The forward pass of training is the model's that is shipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_base import base_config, tiny_tokenizer
from torch import Tensor

from shiftdc_eval.backbones.bundled.smol_config import IMAGE_TOKEN, IMAGE_TOKENS, SIZE
from shiftdc_eval.backbones.bundled.smol_delta import load_delta
from shiftdc_eval.backbones.bundled.smol_merge import apply
from shiftdc_eval.core.errors import ModelError
from training.smol.training.delta_file import save_delta
from training.smol.training.lowrank import block, tower_block
from training.smol.training.network import Network
from training.smol.training.recipe import Recipe

RECIPE = Recipe(rank=3, width=128, layers=2)


@pytest.fixture(scope="module")
def base() -> Any:
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(base_config()).eval()


@pytest.fixture
def net(base: Any) -> Network:
    """A network whose every part has moved away from where training begins."""
    made = Network(base, tiny_tokenizer(), RECIPE, seed=1, device="cpu")
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in (*made.language_parameters, *made.tower_parameters, *made.projector_parameters):
            p.add_(0.1 * torch.randn(p.shape, generator=draws))
    return made


def _rows(net: Network) -> tuple[dict[str, Tensor], Tensor]:
    draws = torch.Generator().manual_seed(3)
    ids = torch.randint(4, 200, (2, 30 + 2 * IMAGE_TOKENS), generator=draws)
    image = tiny_tokenizer().convert_tokens_to_ids(IMAGE_TOKEN)
    ids[ids == image] = 4
    # two images, in other places in each row
    for row, (first, second) in enumerate(((3, 4 + IMAGE_TOKENS), (9, 12 + IMAGE_TOKENS))):
        ids[row, first : first + IMAGE_TOKENS] = image
        ids[row, second : second + IMAGE_TOKENS] = image
    positions = torch.arange(18 + 2 * IMAGE_TOKENS, 28 + 2 * IMAGE_TOKENS).expand(2, -1)
    pixels = torch.randint(0, 256, (2, 2, SIZE, SIZE), generator=draws).to(torch.uint8)
    return {"ids": ids, "positions": positions}, pixels


def _transformers_logits(model: Any, rows: dict[str, Tensor], pixels: Tensor) -> Tensor:
    shown = (pixels.flatten(0, 1).float() / 127.5 - 1).unsqueeze(1).expand(-1, 3, -1, -1)
    logits: Tensor = model(input_ids=rows["ids"], pixel_values=shown).logits
    return logits[:, rows["positions"][0]]


@torch.no_grad()
def test_it_equals_transformers_llava_on_the_merged_weights(base: Any, net: Network) -> None:
    from transformers import LlavaForConditionalGeneration

    rows, pixels = _rows(net)
    ours = net.answer_logits(rows, net.weights(), net.projected(net.patches(pixels)))
    state = {
        name.replace("model.", "model.language_model.", 1): tensor
        for name, tensor in base.state_dict().items()
        if name.startswith("model.")
    }
    model = LlavaForConditionalGeneration(net.model.config).eval()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    merged = {name: tensor.float() for name, tensor in apply(state, net.difference(), shapes).items()}
    assert model.load_state_dict(merged, strict=False).unexpected_keys == []
    model.tie_weights()
    theirs = _transformers_logits(model, rows, pixels)
    assert theirs.std() > 0.05
    assert (ours - theirs).abs().max() < 0.02 * theirs.std()


@torch.no_grad()
def test_without_rounding_it_equals_transformers_to_the_last_digits(net: Network) -> None:
    rows, pixels = _rows(net)
    ours = net.answer_logits(rows, net.weights(), net.projected(net.patches(pixels)))
    for name, low in net.low.items():
        net.model.get_submodule(name).weight.copy_(low.full(torch.float32))
    assert torch.allclose(ours, _transformers_logits(net.model.eval(), rows, pixels), atol=1e-5)


@torch.no_grad()
def test_going_on_from_a_delta_restores_what_it_holds(base: Any, net: Network, tmp_path: Path) -> None:
    names = {"base_sha256": "a", "rank": "3", "seed": "1", "training_log_sha256": "b"}
    save_delta(tmp_path / "delta.safetensors", net.difference(), names)
    other = Network(base, tiny_tokenizer(), RECIPE, seed=9, device="cpu")
    head = other.character_head.weight.clone()
    other.restore(load_delta(tmp_path / "delta.safetensors").state)
    rows, pixels = _rows(net)
    first, second = (n.answer_logits(rows, n.weights(), n.projected(n.patches(pixels))) for n in (net, other))
    assert torch.corrcoef(torch.stack((first.flatten(), second.flatten())))[0, 1] > 0.99
    assert torch.equal(other.character_head.weight, head)
    other.restore(net.difference() | net.heads())
    assert torch.equal(other.character_head.weight, net.character_head.weight)


def test_weights_of_another_size_are_refused(base: Any, net: Network) -> None:
    small = Network(base, tiny_tokenizer(), Recipe(rank=2, width=128, layers=2), seed=1, device="cpu")
    with pytest.raises(ModelError, match="--set rank, width and layers as they were"):
        small.restore(net.difference())
    with pytest.raises(ModelError, match="is on one side alone"):
        small.restore({})


@pytest.mark.parametrize("name", ["decoder", "tower"])
def test_a_layer_compiles_whole_and_computes_the_same(name: str) -> None:
    draws = torch.Generator().manual_seed(4)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws).requires_grad_()

    if name == "decoder":
        layer = block
        shapes = ((32, 32), (16, 32), (16, 32), (32, 32), (48, 32), (48, 32), (32, 48))
        args: tuple[Any, ...] = (
            some(9, 8),
            some(9, 8),
            [some(32), some(32)],
            [some(*s) for s in shapes],
            4,
            2,
            1e-5,
        )
    else:
        layer = tower_block  # type: ignore[assignment]
        shapes = ((32,), *[(32, 32)] * 4, (32,), (128, 32), (32, 128))  # type: ignore[assignment]
        args = ([some(*s) for s in shapes], [some(s[0]) for s in shapes], 2, 1e-5, torch.float32)
    x = some(2, 9, 32)
    plain = layer(x, *args)
    compiled = torch.compile(layer, dynamic=False, fullgraph=True, backend="aot_eager")(x, *args)
    assert torch.allclose(plain, compiled, atol=1e-5)
    first, second = (torch.autograd.grad(y.square().mean(), x)[0] for y in (plain, compiled))
    assert torch.allclose(first, second, atol=1e-6)
