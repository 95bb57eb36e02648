"""Each family that `engine=auto` takes: activations and answers inside vLLM are those of transformers, in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_families import FAMILIES, larger_heads, save_family

from shiftdc_eval.backbones import Chat, GenerationSettings, ModelSpec
from shiftdc_eval.backbones.loading import load_transformers
from shiftdc_eval.backbones.parts import load_parts
from shiftdc_eval.backbones.vllm.choice import CHECKED
from shiftdc_eval.backbones.vllm.start import start
from shiftdc_eval.steering import OnlineCalibration

pytestmark = pytest.mark.slow
NAMES = ["llava_next_vicuna", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "mistral3"]
"""Measured once by hand besides: llava, pixtral, llava_onevision, qwen2_vl, smolvlm."""


def picture(seed: int, width: int, height: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.mark.parametrize("name", NAMES)
def test_a_family_inside_vllm_is_the_family_in_transformers(name: str, vllm: str, tmp_path: Path) -> None:
    if FAMILIES[name].package:
        pytest.importorskip(FAMILIES[name].package or "")
    with larger_heads(32):
        folder = save_family(name, tmp_path / name)
    reference = load_transformers(ModelSpec(str(folder), device="cpu", engine="plain"))
    spec = ModelSpec(str(folder), device="cpu", engine="vllm", max_model_len=1024)
    parts = load_parts(spec)
    assert parts.config.model_type in CHECKED
    chats = [
        Chat.ask("what is shown " * (1 + at % 3), [picture(at, 40 + 17 * at, 90 - 9 * at)]) for at in range(4)
    ]
    chats += [Chat.ask("hello there"), Chat.ask("so", [picture(9, 50, 40)], system="be kind")]
    backbone = start(
        parts, spec, max_num_seqs=8, max_num_batched_tokens=256, block_size=32, num_gpu_blocks_override=96
    )
    try:
        ours, theirs = (
            torch.as_tensor(backbone.last_token_activations(chats).float()),
            reference.last_token_activations(chats),
        )
        off = ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).amax(dim=1)
        # random weights amplify rounding: of InternVL's four images one is 1.1e-4 off
        assert float(off.median()) < 3e-5
        assert float(off.max()) < 2e-4
        settings = GenerationSettings(max_new_tokens=5)
        vectors = torch.randn(theirs.shape[1:], generator=torch.Generator().manual_seed(1))

        def edits(rows: list[int]) -> dict[int, OnlineCalibration]:
            return {at: OnlineCalibration(theirs[rows, at] * 0.5, vectors[at]) for at in (2, 3)}

        assert [a.ids for a in backbone.generate(chats, settings)] == [
            a.ids for a in reference.generate(chats, settings)
        ]
        left = torch.as_tensor(backbone.last_token_activations(chats, [2, 3], edit=edits).float())
        unit = torch.nn.functional.normalize(vectors[2:4], dim=-1)
        shift = ((theirs[:, 2:4] * 0.5) * unit).sum(-1).abs()
        assert float((((left - theirs[:, 2:4] * 0.5) * unit).sum(-1).abs() / shift.amax(dim=0)).max()) < 1e-3
    finally:
        backbone.vllm.close()
