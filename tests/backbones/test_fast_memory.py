"""Memory of the fast engine that must not outlive, or be taken for, what it was made for."""

import gc
import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.backbones.fast.slots import Slots, WholeLayer
from shiftdc_eval.backbones.fast.stepping import Stepper

SHORT = GenerationSettings(max_new_tokens=4)


@pytest.fixture
def fast(tiny_llava: Path) -> Backbone:
    return load_backbone(ModelSpec(str(tiny_llava), device="cpu", engine="fast"))


def small_slots(layers: int = 1) -> Slots:
    return Slots(layers=layers, heads=1, size=3, dtype=torch.float32, device=torch.device("cpu"))


def test_a_pool_of_graphs_is_not_used_again_after_its_last_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    handles = itertools.count()
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    model = SimpleNamespace(
        get_decoder=lambda: torch.nn.Linear(1, 1),
        get_output_embeddings=lambda: torch.nn.Linear(1, 1),
        config=SimpleNamespace(_attn_implementation="sdpa"),
    )
    monkeypatch.setattr(
        "shiftdc_eval.backbones.fast.stepping.cache_argument", lambda decoder: "past_key_values"
    )
    stepper = Stepper(model, small_slots(), mode="graph")
    first = stepper._shared_pool()
    graph = type("Graph", (), {})()
    stepper._graphs.add(graph)
    assert stepper._shared_pool() == first
    del graph
    gc.collect()
    assert stepper._shared_pool() != first


def test_prefixes_of_an_inner_block_do_not_outlive_its_images(fast: Backbone) -> None:
    outer, inner = (Chat.ask("hello", [Image.new("RGB", (40, 30), colour)]) for colour in ("red", "blue"))
    with fast.sharing([outer]):
        fast.generate([outer], SHORT)
        with fast.sharing([inner]):
            fast.generate([inner], SHORT)
        kept = {image for one in fast.fast.prefixes._kept.values() for image in one.prefix.images}
        assert kept <= {id(image) for image in outer.images}


def test_a_stored_prompt_wipes_what_an_earlier_row_left_behind_it() -> None:
    memory = small_slots()
    memory.reserve(1, 16)
    memory.keys[0][:] = memory.values[0][:] = float("nan")
    states = torch.ones(1, 1, 4, 3)
    WholeLayer(memory, 0, slice(0, 1), 0).update(states, states)
    assert not memory.keys[0].isnan().any()
    assert not memory.values[0].isnan().any()


def test_slots_that_could_not_be_made_whole_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = small_slots(layers=3)
    calls = itertools.count()
    real = torch.zeros

    def scarce(*args: object, **kwargs: object) -> torch.Tensor:
        if next(calls) == 2:
            raise torch.OutOfMemoryError("no room")
        return real(*args, **kwargs)

    monkeypatch.setattr(torch, "zeros", scarce)
    with pytest.raises(torch.OutOfMemoryError):
        memory.reserve(2, 10)
    assert (memory.keys, memory.values, memory.rows, memory.columns) == ([], [], 0, 0)


def test_slots_made_in_inference_mode_can_be_written_outside_of_it(fast: Backbone) -> None:
    chats = [Chat.ask("hello", [Image.new("RGB", (40, 30), "red")])]
    with torch.inference_mode():
        inside = fast.generate(chats, SHORT)
    assert [a.ids for a in fast.generate(chats, SHORT)] == [a.ids for a in inside]


def test_activations_of_a_prompt_longer_than_a_window_are_left_to_the_plain_path(tmp_path: Path) -> None:
    from tiny_families import save_family

    backbone = load_backbone(ModelSpec(str(save_family("pixtral", tmp_path / "pixtral")), device="cpu"))
    backbone.model.config.text_config.sliding_window = 12
    chats = [Chat.ask("a list of steps " * 6, [Image.new("RGB", (40, 30), "red")])]
    with backbone.sharing(chats):
        backbone.last_token_activations(chats)
        assert backbone.fast.prefixes.made == 0
