"""Cells of a sweep compute nothing twice, and the plan says beforehand how much they take."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from adapter_harness import manager, write_figstep
from PIL import Image

from shiftdc_eval.analysis.items import load_task
from shiftdc_eval.analysis.sweeps import plan as sweep_plan
from shiftdc_eval.analysis.sweeps.activation_cache import ActivationStore, Remembering
from shiftdc_eval.analysis.sweeps.cli import shipped
from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.backbones.interface import Wrapper
from shiftdc_eval.defenses.caption_store import clock
from shiftdc_eval.defenses.directions import Directions
from shiftdc_eval.grid import run as grid
from shiftdc_eval.grid.file import read_grid
from shiftdc_eval.grid.passes import Size
from shiftdc_eval.steering import ablate

SHORT = GenerationSettings(max_new_tokens=4)
GRID = """
models: [{model}]
defenses:
  - none
  - {{name: shiftdc, caption_max_new_tokens: 2}}
  - {{name: shiftdc, layers: 1-2, caption_max_new_tokens: 2, ablation: layers}}
  - {{name: shiftdc, variant: paper, caption_max_new_tokens: 2, ablation: paper}}
  - {{name: shiftdc, variant: official, preset: published, ablation: published}}
  - {{name: random, random_seed: 0, caption_max_new_tokens: 2, ablation: random}}
  - {{name: shiftdc_captioned, caption: none, ablation: no caption}}
  - {{name: shiftdc_captioned, caption: reference, alpha: 0.5, ablation: reference}}
  - {{name: cmrm, ablation: cmrm}}
  - {{name: ecso_caption, caption_max_new_tokens: 2, ablation: captions}}
  - {{name: coca, ablation: coca}}
tasks: [figstep]
defaults: {{batch_size: 1, gen_kwargs: {{max_new_tokens: 2}}}}
"""


@pytest.fixture(scope="module")
def backbone(tiny_llava: Path) -> Backbone:
    return load_backbone(ModelSpec(str(tiny_llava), device="cpu"))


def chats(count: int) -> list[Chat]:
    pictures = [Image.new("RGB", (60, 60), (40 * at, 0, 90)) for at in range(count)]
    return [Chat.ask(f"request {at}", [picture]) for at, picture in enumerate(pictures)]


def remembering(backbone: Backbone, store: ActivationStore) -> Backbone:
    return cast(Backbone, Remembering(backbone, store))


def test_activations_are_those_of_the_model_at_every_layer_asked_for(
    backbone: Backbone, tmp_path: Path
) -> None:
    asked = [*chats(2), Chat.ask("words alone")]
    kept = remembering(backbone, ActivationStore(tmp_path / "a"))
    for only in (None, [1, 3]):
        for _ in range(2):
            found = kept.last_token_activations(asked, only)
            assert torch.equal(found, backbone.last_token_activations(asked, only))
    assert not torch.equal(
        kept.last_token_activations(asked[2:], bare=True), kept.last_token_activations(asked[2:])
    )


def test_a_prompt_is_run_once_and_found_again_by_another_process(backbone: Backbone, tmp_path: Path) -> None:
    asked = chats(3)
    first = ActivationStore(tmp_path / "a")
    remembering(backbone, first).last_token_activations(asked, [0])
    second = ActivationStore(tmp_path / "a")
    before = backbone.forward_passes
    remembering(backbone, second).last_token_activations([*asked[1:], asked[1]], [2])
    assert backbone.forward_passes == before
    assert (first.made, first.reused, second.made, second.reused) == (3, 0, 0, 3)


def changed(backbone: Backbone, **changes: Any) -> Backbone:
    """A backbone that says something else of itself."""
    return type("Changed", (Wrapper,), changes)(backbone)


@pytest.mark.parametrize(
    "change",
    [
        {"revision": "other"},
        {"template_sha256": "other"},
        {"dtype": torch.bfloat16},
        {"attention": "eager"},
        {"engine": "another"},
        {"hardware": "other"},
    ],
)
def test_another_model_dtype_kernel_engine_or_hardware_finds_nothing(
    backbone: Backbone, change: dict[str, Any], tmp_path: Path
) -> None:
    store = ActivationStore(tmp_path)
    for model in (backbone, changed(backbone, **change)):
        for _ in range(2):
            remembering(model, store).last_token_activations(chats(1))
    assert (store.made, store.reused) == (2, 2)


@pytest.mark.parametrize("other", [Chat.ask("request 0"), chats(2)[1], Chat.ask("other", chats(1)[0].images)])
def test_another_request_or_image_finds_nothing(backbone: Backbone, other: Chat, tmp_path: Path) -> None:
    store = ActivationStore(tmp_path / "a")
    for chat in (chats(1)[0], other):
        remembering(backbone, store).last_token_activations([chat])
    assert (store.made, store.reused) == (2, 0)


def test_a_damaged_entry_is_made_again(backbone: Backbone, tmp_path: Path) -> None:
    store = ActivationStore(tmp_path / "a")
    whole = remembering(backbone, store).last_token_activations(chats(1))
    (path,) = (tmp_path / "a").iterdir()
    path.write_bytes(path.read_bytes()[:-7])
    for _ in range(2):
        assert torch.equal(remembering(backbone, store).last_token_activations(chats(1)), whole)
    assert (store.made, store.reused) == (2, 1)


class Stops:
    """Counts its calls and answers a chat with as many tokens as its request is long, at most the limit."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def generate(self, chats: list[Chat], settings: GenerationSettings, **rest: Any) -> list[Any]:
        from shiftdc_eval.backbones import Generated

        self.asked += [chat.request for chat in chats]
        lengths = [min(len(chat.request), settings.max_new_tokens) for chat in chats]
        return [Generated("x" * length, 1, length, ()) for length in lengths]


def test_an_answer_that_ended_by_itself_serves_longer_limits_and_no_other(
    backbone: Backbone, tmp_path: Path
) -> None:
    model = Stops(backbone)
    kept = remembering(cast(Backbone, model), ActivationStore(tmp_path / "a"))
    asked = [Chat.ask("abc"), Chat.ask("abcdefgh")]

    def lengths(limit: int, **changes: Any) -> list[int]:
        settings = GenerationSettings(max_new_tokens=limit, **changes)
        return [answer.tokens_out for answer in kept.generate(asked, settings)]

    assert lengths(5) == [3, 5]
    assert lengths(20) == [3, 8]
    assert lengths(2) == [2, 2]
    assert lengths(30) == [3, 8]
    assert model.asked == ["abc", "abcdefgh", "abcdefgh", "abc", "abcdefgh"]
    assert lengths(30, until=("x",)) == [3, 8]
    assert model.asked[-2:] == ["abc", "abcdefgh"]


def test_edited_and_drawn_answers_are_never_found_again(backbone: Backbone, tmp_path: Path) -> None:
    model = Stops(backbone)
    kept = remembering(cast(Backbone, model), ActivationStore(tmp_path / "a"))
    for _ in range(2):
        kept.generate([Chat.ask("a")], SHORT, edit=lambda rows: {})
        kept.generate([Chat.ask("b")], GenerationSettings(do_sample=True), seeds=["1"])
    assert model.asked == ["a", "b", "a", "b"]


@pytest.mark.slow
@pytest.mark.usefixtures("few_pairs")
def test_a_sweep_takes_the_passes_that_its_plan_names(
    tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHIFTDC_DATA", str(write_figstep(tmp_path / "data", tasks=1)))
    monkeypatch.setattr("shiftdc_eval.grid.tasks._manager", [manager()])
    file = tmp_path / "mine.yaml"
    file.write_text(GRID.format(model=tiny_llava))
    cells = list(read_grid(file).cells())
    sizes = [(cell, sweep_plan.size_of(cell, load_task)) for cell in cells]
    taken, saved = sweep_plan.totals(sizes)
    assert taken == {"answers": 12 * 3, "captions": 3 * 3, "activations": 6 * 3}
    assert saved == {"answers": 0, "captions": 3 * 3, "activations": 5 * 3}

    store = ActivationStore(tmp_path / "a")

    def counted(out: str, share: bool) -> int:
        loaded: list[Backbone] = []

        def stand_in(model: Backbone) -> Backbone:
            Directions(model)()
            Directions(model)(post_norm_last=True, bare=True)
            model.forward_passes = 0
            loaded.append(model)
            return remembering(model, store) if share else model

        monkeypatch.setenv("SHIFTDC_CACHE", str(tmp_path / out / "cache"))
        if share:  # directions are fitted once, captions made anew
            shutil.copytree(
                tmp_path / "apart" / "cache" / "directions", tmp_path / out / "cache" / "directions"
            )
        assert grid.run_cells(cells, tmp_path / out, report=lambda *said: None, stand_in=stand_in) == {}
        return loaded[0].forward_passes

    # captions and first answers are always shared, activations in a sweep
    assert counted("apart", share=False) == sum(taken.values()) + saved["activations"]
    # at most: items of one request and one caption are one prompt, and a caption may end within two tokens
    assert counted("shared", share=True) <= sum(taken.values())
    assert store.made + store.reused == taken["activations"] + saved["activations"]
    assert store.made <= taken["activations"]


def test_the_plan_counts_the_texts_that_nested_contrast_sets_share(tmp_path: Path) -> None:
    from shiftdc_eval.analysis.sweeps.inputs import own_contrast, with_files

    found, _ = with_files(read_grid(shipped()["contrast_pairs"]), tmp_path, tmp_path)
    made, saved = sweep_plan.direction_texts(list(found.cells()), own_contrast)
    whole, _ = sweep_plan.direction_texts(list(read_grid(shipped()["alpha"]).cells()), own_contrast)
    assert whole <= made < whole + saved
    assert saved > 100


def test_items_without_an_image_take_one_pass(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(GRID.format(model="m"))
    (none, *rest) = list(read_grid(file).cells())
    size = Size(shown=0, plain=7)
    counted = [sum(one.count for one in sweep_plan.passes(cell, size)) for cell in (none, *rest)]
    assert counted == [7] * 10 + [14]


def test_what_is_found_counts_with_the_seconds_it_took(backbone: Backbone, tmp_path: Path) -> None:
    kept = remembering(backbone, ActivationStore(tmp_path / "a"))
    begun = clock(kept)
    kept.last_token_activations(chats(2))
    made = clock(kept) - begun
    found = Remembering(backbone, ActivationStore(tmp_path / "a"))
    found.last_token_activations(chats(2))
    assert 0 < found.reused_seconds <= made
    assert clock(cast(Backbone, found)) - time.perf_counter() == pytest.approx(found.reused_seconds, abs=0.1)
    assert clock(backbone) - time.perf_counter() == pytest.approx(0, abs=0.1)


def test_nothing_is_found_or_kept_while_hooks_change_the_layers(backbone: Backbone, tmp_path: Path) -> None:
    """The layer of a refusal direction is chosen under ablation: stored activations would all say "no change"."""
    store = ActivationStore(tmp_path)
    kept = remembering(backbone, store)
    asked = chats(2)
    usual = kept.last_token_activations(asked)
    with ablate(backbone.layers, torch.randn(32, generator=torch.Generator().manual_seed(0))):
        without = kept.last_token_activations(asked)
        assert torch.equal(without, backbone.last_token_activations(asked))
    assert not torch.allclose(without, usual)
    assert torch.equal(kept.last_token_activations(asked), usual)
    assert (store.made, store.reused) == (2, 2)


def test_the_plan_counts_the_fit_of_every_defense_that_fits_something(tmp_path: Path) -> None:
    """The built-in set has 200 pairs with captions: 160 are fitted on, two sides, two texts each."""
    texts = 160 * 2 * 2

    def counted(*defenses: str) -> tuple[int, int]:
        file = tmp_path / "mine.yaml"
        lines = "".join(f"  - {{{line}}}\n" for line in defenses)
        file.write_text(f"models: [m]\ndefenses:\n{lines}tasks: [figstep]\n")
        return sweep_plan.direction_texts(list(read_grid(file).cells()), lambda _: None)

    assert counted("name: none", "name: ecso", "name: cmrm") == (0, 0)
    assert counted("name: refusal_direction") == (texts, 0)
    assert counted("name: shiftdc", "name: refusal_direction", "name: random, ablation: random") == (texts, 0)
    bare = "name: shiftdc, variant: official, bare_text_prompt: true"
    assert counted("name: shiftdc", bare) == (texts + 160 * 2, 0)
    dataset = "name: cmrm, level: dataset"
    assert counted("name: shiftdc", dataset) == (2 * texts, texts), "the texts alone are shared"
