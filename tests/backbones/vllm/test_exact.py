"""A tiny LLaVA inside vLLM against the same model in transformers, in float32: the reference is transformers' forward."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from gc import collect
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_models import save_tiny_llava

from shiftdc_eval.backbones import Chat, GenerationSettings, ModelSpec
from shiftdc_eval.backbones.chat import Turn
from shiftdc_eval.backbones.loading import load_transformers
from shiftdc_eval.backbones.parts import load_parts
from shiftdc_eval.backbones.transformers_backbone import TransformersBackbone
from shiftdc_eval.backbones.vllm.backbone import VllmBackbone
from shiftdc_eval.backbones.vllm.start import start
from shiftdc_eval.core.errors import ConfigError, ItemError, ModelError
from shiftdc_eval.steering import OnlineCalibration, Scope, Shift

pytestmark = pytest.mark.slow
HIDDEN, LAYERS = 128, [1, 2, 3]
SETTINGS = GenerationSettings(max_new_tokens=6)
NEAR_TIE = 1e-3
"""Gap of the two best logits below which two correct computations may part."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("exact") / "llava", hidden=HIDDEN)


@pytest.fixture(scope="module")
def reference(folder: Path) -> TransformersBackbone:
    return load_transformers(ModelSpec(str(folder), device="cpu"))


@pytest.fixture(scope="module")
def backbone(folder: Path, vllm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmBackbone]:
    """64 tokens a step, so that longer prompts come in chunks; a cache of 12 blocks of 32 tokens, so that requests are
    preempted."""
    spec = ModelSpec(str(folder), device="cpu", engine="vllm", max_model_len=320)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIFTDC_CACHE", str(tmp_path_factory.mktemp("cache")))
        found = start(
            load_parts(spec),
            spec,
            max_num_seqs=8,
            max_num_batched_tokens=64,
            block_size=32,
            num_gpu_blocks_override=12,
        )
    yield found
    found.vllm.close()


def picture(seed: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (30 + seed, 50, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def chats(count: int) -> list[Chat]:
    """Chats of unequal length, every fifth without an image, every seventh with a system prompt."""
    return [
        Chat.ask(
            f"what is in the image {row} " * (1 + row % 5),
            [picture(row)] if row % 5 else [],
            system="be brief" if row % 7 == 3 else "",
        )
        for row in range(count)
    ]


def directions() -> torch.Tensor:
    return torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(0))


def calibration(backbone: Any, asked: Sequence[Chat]) -> Any:
    text = backbone.last_token_activations([chat.without_images() for chat in asked], LAYERS)
    vectors = directions()
    return lambda rows: {
        layer: OnlineCalibration(text[rows, at], vectors[layer]) for at, layer in enumerate(LAYERS)
    }


def assert_same(reference: TransformersBackbone, asked: Sequence[Chat], ours: Any, theirs: Any) -> None:
    """Equal tokens, or parted where the two best tokens of the undefended model are nearly tied."""
    parted = 0
    for chat, one, other in zip(asked, ours, theirs, strict=True):
        assert one.tokens_in == other.tokens_in
        if one.ids == other.ids:
            continue
        parted += 1
        step = next(i for i, pair in enumerate(zip(one.ids, other.ids, strict=False)) if pair[0] != pair[1])
        follower = reference.follower([chat])
        for at in range(step + 1):
            logits = follower.next_logits(torch.tensor([other.ids[:at]], dtype=torch.long))
        best = logits[0].topk(2).values
        assert float(best[0] - best[1]) < NEAR_TIE, (chat.request, step)
    assert parted <= len(asked) // 10


def test_activations_are_those_of_transformers(
    reference: TransformersBackbone, backbone: VllmBackbone
) -> None:
    asked = chats(12)
    ours = torch.as_tensor(backbone.last_token_activations(asked).float())
    theirs = reference.last_token_activations(asked)
    assert ours.shape == theirs.shape
    assert float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max()) < 1e-4


def test_bare_texts_have_no_template(reference: TransformersBackbone, backbone: VllmBackbone) -> None:
    asked = [Chat.ask("a list of steps"), Chat.ask("no methods")]
    ours = backbone.last_token_activations(asked, [3], bare=True)
    theirs = reference.last_token_activations(asked, [3], bare=True)
    assert float((ours.float() - theirs).norm() / theirs.norm()) < 1e-4


def test_the_final_norm_is_the_models(reference: TransformersBackbone, backbone: VllmBackbone) -> None:
    rows = torch.randn(3, 1, HIDDEN, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(backbone.final_norm(rows), reference.final_norm(rows), rtol=1e-4, atol=1e-5)


def test_the_safety_coordinate_becomes_that_of_the_text_alone(backbone: VllmBackbone) -> None:
    """Eq. 7 of arXiv 2502.13095, with alpha 1, at every calibrated layer."""
    asked = [chat for chat in chats(12) if chat.images]
    text = backbone.last_token_activations([chat.without_images() for chat in asked], LAYERS).float()
    before = backbone.last_token_activations(asked, LAYERS).float()
    after = backbone.last_token_activations(asked, LAYERS, edit=calibration(backbone, asked)).float()
    unit = torch.nn.functional.normalize(directions()[LAYERS], dim=-1)
    shift = ((before - text) * unit).sum(-1).abs()
    left = ((after - text) * unit).sum(-1).abs()
    assert float(shift.min(dim=0).values.max()) > 0.1
    assert float((left / shift.amax(dim=0)).max()) < 1e-3


def test_fifty_requests_in_any_order_answer_as_in_transformers(
    reference: TransformersBackbone, backbone: VllmBackbone
) -> None:
    asked = chats(50)
    random.Random(0).shuffle(asked)
    undefended = reference.generate(asked, SETTINGS)
    calibrated = reference.generate(asked, SETTINGS, edit=calibration(reference, asked))
    assert_same(reference, asked, backbone.generate(asked, SETTINGS), undefended)
    made = backbone.edits_made.copy()
    ours = backbone.generate(asked, SETTINGS, edit=calibration(backbone, asked))
    assert backbone.edits_made - made == dict.fromkeys(LAYERS, 50)
    assert [one.ids for one in ours] == [other.ids for other in calibrated]
    assert sum(one.ids != other.ids for one, other in zip(undefended, calibrated, strict=True)) > 5


def test_preempted_requests_answer_as_in_transformers(
    reference: TransformersBackbone, backbone: VllmBackbone
) -> None:
    """Sixteen answers of 60 tokens need more than the cache holds."""
    asked, long, before = chats(16), GenerationSettings(max_new_tokens=60), backbone.asked_again
    ours = backbone.generate(asked, long, edit=calibration(backbone, asked))
    theirs = reference.generate(asked, long, edit=calibration(reference, asked))
    assert [one.ids for one in ours] == [other.ids for other in theirs]
    assert backbone.asked_again > before


def test_a_later_turn_never_finds_edited_blocks(
    reference: TransformersBackbone, backbone: VllmBackbone
) -> None:
    first = Chat.ask("what is in the image", [picture(3)])
    strong = {layer: Shift(400 * directions()[layer]) for layer in LAYERS}
    (answer,) = backbone.generate([first], GenerationSettings(max_new_tokens=80), edit=lambda _rows: strong)
    ids = backbone._ids([first])[0] + list(answer.ids) + backbone._ids([Chat.ask("go on")])[0]
    later = Chat((*first.turns, Turn("assistant", ("x",)), Turn("user", ("go on",))))
    encoded = reference.features([first])
    prompt = encoded.inputs["input_ids"][0].tolist() + ids[len(backbone._ids([first])[0]) :]

    def last(salted: bool) -> torch.Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backbone, "_ids", lambda _chats: [ids])
            if not salted:
                patch.setattr(backbone._edited, "salt", lambda _ids: None)
            return backbone.last_token_activations([later], LAYERS).float()

    inputs = {**encoded.inputs, "input_ids": torch.tensor([prompt])}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    seen = []
    hooks = [
        reference.layers[at].register_forward_hook(
            lambda _m, _a, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, -1])
        )
        for at in LAYERS
    ]
    with torch.no_grad():
        reference.model.base_model(**inputs)
    for hook in hooks:
        hook.remove()
    theirs = torch.stack(seen)
    with_salt, without = (
        float((last(salted)[0] - theirs).norm() / theirs.norm()) for salted in (True, False)
    )
    assert with_salt < 1e-4
    # without the salt the edited blocks are found: what the salt is for
    assert without > 20 * with_salt


def test_prefixes_are_found_again(reference: TransformersBackbone, backbone: VllmBackbone) -> None:
    """Two prompts that share their image and more than a block of text."""
    shared = "describe the image " * 12
    asked = [Chat.ask(shared + end, [picture(2)]) for end in ("one", "two", "one")]
    for chat in asked:
        ours = backbone.last_token_activations([chat]).float()
        theirs = reference.last_token_activations([chat])
        assert float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max()) < 1e-4


def test_what_the_workers_keep_is_freed(backbone: VllmBackbone) -> None:
    asked = chats(6)
    backbone.generate(asked, SETTINGS, edit=calibration(backbone, asked))
    collect()
    backbone.release()
    assert backbone.vllm.rpc("shiftdc_free", []) == [0]


def test_missing_edits_fail_in_one_line(backbone: VllmBackbone) -> None:
    """The hook of one decoder layer is taken away, as a new version of vLLM might."""
    asked = chats(3)
    steering = backbone.vllm._llm.llm_engine.model_executor.driver_worker.worker._shiftdc
    hooks = dict(steering.layers[2]._forward_hooks)
    steering.layers[2]._forward_hooks.clear()
    try:
        with pytest.raises(ModelError, match="made 2 edits of a request for which 3 layers") as caught:
            backbone.generate(asked, SETTINGS, edit=calibration_of(asked))
    finally:
        steering.layers[2]._forward_hooks.update(hooks)
    assert "\n" not in str(caught.value)


def calibration_of(asked: Sequence[Chat]) -> Any:
    """Shifts of each row's own."""
    vectors = torch.randn(len(asked), HIDDEN, generator=torch.Generator().manual_seed(2))
    return lambda rows: {layer: Shift(vectors[rows]) for layer in LAYERS}


def test_what_vllm_cannot_do_is_refused_in_one_line(backbone: VllmBackbone) -> None:
    asked = chats(2)
    with pytest.raises(ModelError, match="last prompt token in prefill"):
        backbone.generate(
            asked, SETTINGS, edit=lambda _rows: {1: Shift(torch.ones(HIDDEN))}, scope=Scope(passes="every")
        )
    with pytest.raises(ModelError, match="kind function cannot"):
        backbone.generate(asked, SETTINGS, edit=lambda _rows: {1: lambda x: x})
    with pytest.raises(ConfigError, match="dtype=bfloat16"):
        backbone.generate(asked, GenerationSettings(do_sample=True), seeds=["a", "b"])


def test_logits_that_are_not_finite_are_no_answer(backbone: VllmBackbone) -> None:
    norm = backbone.vllm._llm.llm_engine.model_executor.driver_worker.worker.model_runner.model
    weight = norm.language_model.model.norm.weight
    kept = weight.detach().clone()
    try:
        weight.data.fill_(float("nan"))
        with pytest.raises(ItemError, match="the logits of .* are not finite in float32"):
            backbone.generate(chats(2), SETTINGS)
    finally:
        weight.data.copy_(kept)
    assert len(backbone.generate(chats(2), SETTINGS)) == 2
