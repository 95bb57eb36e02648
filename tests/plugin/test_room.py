"""A local judge within a run has the evaluated model's memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_harness import answers, evaluate, write_figstep
from judge_models import save_classifier

from shiftdc_eval.backbones import ModelSpec, load_backbone
from shiftdc_eval.backbones.offload import set_aside
from shiftdc_eval.core.model_memory import offer_room, room, withdraw_room
from shiftdc_eval.judges.local.model import LocalModel
from shiftdc_eval.plugin.adapter import ShiftDCVlm

Alive = Callable[[], bool]


@pytest.fixture(autouse=True)
def figstep_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIFTDC_DATA", str(write_figstep(tmp_path / "data")))


@pytest.fixture(autouse=True)
def no_other_tenants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models of earlier tests are not asked for their room."""
    monkeypatch.setattr("shiftdc_eval.core.model_memory._tenants", [])


@pytest.fixture
def local_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_classifier(tmp_path / "classifier")
    monkeypatch.setenv("SHIFTDC_JUDGES", f"keyword_robust,local_classifier:model={folder};unsafe=harm")


@pytest.fixture
def while_judging(monkeypatch: pytest.MonkeyPatch) -> Callable[[Alive], list[bool]]:
    """Watch whether something is alive at the moment a judge's weights are about to be loaded."""

    def watch(alive: Alive) -> list[bool]:
        seen: list[bool] = []
        load = LocalModel._load

        def watched(self: LocalModel, *arguments: Any) -> Iterator[tuple[Any, Any]]:
            seen.append(alive())
            yield from load(self, *arguments)

        monkeypatch.setattr(LocalModel, "_load", watched)
        return seen

    return watch


def adapter(model: Path, **more: Any) -> ShiftDCVlm:
    return ShiftDCVlm(pretrained=str(model), defense="none", batch_size=4, device="cpu", **more)


def test_the_evaluated_model_is_gone_before_a_local_judge_is_loaded_and_comes_back_when_needed(
    tiny_llava: Path, local_judge: None, while_judging: Callable[[Alive], list[bool]], tmp_path: Path
) -> None:
    model = adapter(tiny_llava, journal=tmp_path / "first")
    weights = weakref.ref(model.backbone.model)
    seen = while_judging(lambda: weights() is not None)
    first = evaluate(model, "figstep", "figstep_benign", gen_kwargs="max_new_tokens=4")
    assert seen == [False, False], "one judge a task, and the model was gone before the first of them"
    model.arguments = model.arguments.model_copy(update={"journal": tmp_path / "second"})
    again = evaluate(model, "figstep", gen_kwargs="max_new_tokens=4")
    assert answers(again, "figstep") == answers(first, "figstep")
    assert seen == [False, False], "the verdicts were known, so the model stayed the second time"
    assert model.backbone.model is not None


def test_judges_without_a_model_of_their_own_leave_the_evaluated_model_where_it_is(
    tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIFTDC_JUDGES", "keyword_robust,keyword_gcg")
    model = adapter(tiny_llava)
    weights = model.backbone.model
    evaluate(model, "figstep", gen_kwargs="max_new_tokens=4")
    assert model.backbone.model is weights


def test_a_model_that_was_given_is_set_aside_and_not_let_go(
    tiny_llava: Path,
    local_judge: None,
    while_judging: Callable[[Alive], list[bool]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events: list[str] = []

    @contextmanager
    def aside(model: torch.nn.Module) -> Iterator[None]:
        assert model is backbone.model
        events.append("aside")
        yield
        events.append("back")

    monkeypatch.setattr("shiftdc_eval.backbones.transformers_backbone.set_aside", aside)
    backbone = load_backbone(ModelSpec(pretrained=str(tiny_llava), device="cpu"))
    seen = while_judging(lambda: events[-1:] == ["aside"])
    evaluate(adapter(tiny_llava, backbone=backbone), "figstep", gen_kwargs="max_new_tokens=4")
    assert seen == [True]
    assert events == ["aside", "back"]


def test_an_offer_of_room_keeps_no_model_alive_and_is_withdrawn_when_more_is_asked(
    tiny_llava: Path,
) -> None:
    model = adapter(tiny_llava)
    model.clean()
    weights = weakref.ref(model.backbone.model)
    withdraw_room(model._vacate)
    with room():
        assert weights() is not None
    model.clean()
    del model
    gc.collect()
    assert weights() is None
    with room():
        pass


def test_a_judge_that_fails_to_load_gives_the_room_back(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Tenant:
        @contextmanager
        def vacate(self) -> Iterator[None]:
            events.append("out")
            try:
                yield
            finally:
                events.append("in")

    tenant = Tenant()
    offer_room(tenant.vacate)
    with pytest.raises(Exception, match="cannot be loaded"), LocalModel("no-such/judge").loaded("AutoModel"):
        pass
    assert events == ["out", "in"]


def test_the_judges_own_weights_are_gone_when_it_is_done(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path / "classifier")
    with LocalModel(str(folder)).loaded("AutoModelForSequenceClassification") as (model, _):
        assert all(weight.device.type == "cpu" for weight in model.parameters())
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: weights in main memory stay there")
def test_setting_aside_frees_the_accelerator_and_puts_every_tensor_back() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2048, 2048), torch.nn.BatchNorm1d(2048)).cuda().eval()
    inputs = torch.randn(4, 2048, device="cuda")
    before, used = model(inputs), torch.cuda.memory_allocated()
    with set_aside(model):
        assert torch.cuda.memory_allocated() < used - 2048 * 2048 * 4
        assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cuda"}
    torch.testing.assert_close(model(inputs), before, rtol=0, atol=0)
