"""Defenses through vLLM, unchanged, against the same defenses through transformers; and runs of the adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fixed_directions import FixedDirections
from hand_made_requests import through_the_adapter
from PIL import Image
from tiny_models import save_tiny_llava

from shiftdc_eval.backbones import Chat, GenerationSettings, ModelSpec
from shiftdc_eval.backbones.interface import IN_VLLM
from shiftdc_eval.backbones.loading import load_backbone, load_transformers
from shiftdc_eval.backbones.transformers_backbone import TransformersBackbone
from shiftdc_eval.backbones.vllm.backbone import VllmBackbone
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses import DEFENSES, Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore, engine_key
from shiftdc_eval.steering import SafetyDirection

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("few_pairs")]
HIDDEN = 128
SHORT: dict[str, Any] = {"caption_max_new_tokens": 6}
WAYS: list[tuple[str, dict[str, Any]]] = [
    ("none", {}),
    ("shiftdc", SHORT),
    ("shiftdc", {**SHORT, "variant": "paper", "layers": "1-2", "alpha": 0.5}),
    ("shiftdc", {"variant": "official", "preset": "published"}),
    ("shiftdc", {**SHORT, "one_sided": True}),
    ("shiftdc", {**SHORT, "variant": "spherical"}),
    ("shiftdc_captioned", {}),
    ("subspace", {"rank": 3}),
    ("subspace", {**SHORT, "query": "caption"}),
    ("subspace", {"variant": "push"}),
    ("recentred_refusal", {"layer": 2}),
    ("random", SHORT),
    ("ecso", {**SHORT, "tell_max_new_tokens": 3}),
    ("ecso_caption", SHORT),
    ("adashield_s", {}),
    ("uniguard_text", {}),
    ("blank_image", {}),
    ("blank_image", {"image": "none"}),
    ("always_prefix", {}),
    ("cmrm", {}),
    ("refusal_direction", {"positions": "last", "passes": "prefill", "site": "output", "layers": "2"}),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("defenses") / "llava", hidden=HIDDEN)


@pytest.fixture(scope="module")
def reference(folder: Path) -> TransformersBackbone:
    return load_transformers(ModelSpec(str(folder), device="cpu", engine="plain"))


@pytest.fixture(scope="module")
def backbone(folder: Path, vllm: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmBackbone]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHIFTDC_CACHE", str(tmp_path_factory.mktemp("cache")))
        found = load_backbone(ModelSpec(str(folder), device="cpu", engine="vllm", max_model_len=2048))
    assert isinstance(found, VllmBackbone)
    yield found
    found.vllm.close()


def requests() -> list[Request]:
    noise = [Image.effect_noise((40 + at, 30), 64).convert("RGB") for at in range(4)]
    shown = [
        Request(Chat.ask(f"what is in image {at}", [image]), f"seed {at}") for at, image in enumerate(noise)
    ]
    return [*shown, Request(Chat.ask("no image at all"), "seed")]


def tools(backbone: Any) -> Tools:
    vectors = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(3))
    direction = SafetyDirection(vectors, backbone.name, backbone.revision, "t", "c", 1, 1)
    return Tools(backbone, CaptionStore(None), FixedDirections(direction))


@pytest.mark.parametrize(("name", "settings"), WAYS)
def test_a_defense_answers_as_through_transformers(
    reference: TransformersBackbone, backbone: VllmBackbone, name: str, settings: dict[str, Any]
) -> None:
    defense = DEFENSES[name](**settings)
    assert defense.needed() <= IN_VLLM
    asked, limit = requests(), GenerationSettings(max_new_tokens=6)
    ours = defense.answer(tools(backbone), asked, limit)
    theirs = defense.answer(tools(reference), asked, limit)
    assert [(a.text, a.tokens_in, a.tokens_out, a.notes) for a in ours] == [
        (a.text, a.tokens_in, a.tokens_out, a.notes) for a in theirs
    ]


def test_an_answer_stops_after_a_text_as_through_transformers(
    reference: TransformersBackbone, backbone: VllmBackbone
) -> None:
    chats = [request.chat for request in requests()]
    whole = reference.generate(chats, GenerationSettings(max_new_tokens=6))
    end = next(word for word in map(reference.tokenizer.decode, whole[0].ids[1:]) if word.isascii() and word)[
        -1
    ]
    settings = GenerationSettings(max_new_tokens=6, stop_after=end)
    ours, theirs = backbone.generate(chats, settings), reference.generate(chats, settings)
    assert ours == theirs
    assert ours != whole


def test_what_needs_more_is_refused_before_an_answer(backbone: VllmBackbone, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="defense=coca at these settings needs logits"):
        through_the_adapter(backbone, [requests()[0].chat], tmp_path, defense="coca", engine="vllm")


def test_a_run_is_recorded_and_resumed(backbone: VllmBackbone, vllm: str, tmp_path: Path) -> None:
    chats = [request.chat for request in requests()[:4]]
    given = {"defense": "shiftdc", "engine": "vllm", **SHORT}
    first = through_the_adapter(backbone, chats[:2], tmp_path, **given)
    passes = backbone.forward_passes
    assert through_the_adapter(backbone, chats[:2], tmp_path, **given) == first
    assert backbone.forward_passes == passes, "finished answers are found in the journal"
    through_the_adapter(backbone, chats, tmp_path, **given)
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("run-*.json"))]
    edited = sorted((r["extra"].get("edited_requests_by_layer") or {}).get("2", 0) for r in records)
    assert edited == [0, 2, 2]
    assert {record["engine"] for record in records} == {"vllm"}
    name, version = vllm.split(" ")
    assert records[0]["versions"][name] == version


def test_in_16_bit_engine_and_version_are_part_of_an_answers_key(
    backbone: VllmBackbone, vllm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine_key(backbone) == {}
    monkeypatch.setattr(backbone, "_dtype", torch.bfloat16)
    assert engine_key(backbone) == {"engine": f"vllm {vllm}"}
