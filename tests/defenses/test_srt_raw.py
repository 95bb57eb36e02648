"""SRT's raw direction beside its plain loop: what it is fitted on, how its place is chosen, what it edits."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ImageChops
from plain_bench import Bench, make_bench, save_loud
from plain_cases import REQUESTS, SRT
from plain_defenses import FIGSTEP, MONO, Transfer, drawn, fit_texts, template_tokens
from plain_runs import PlainModel
from tiny_families import save_family

from shiftdc_eval.backbones import Chat, Generated, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.core.errors import ConfigError, DataError, DirectionError
from shiftdc_eval.defenses import DEFENSES, Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.defenses.contrast import load_contrast
from shiftdc_eval.defenses.directions import Directions
from shiftdc_eval.defenses.preflight import require_use
from shiftdc_eval.defenses.refusal_transfer import explicit
from shiftdc_eval.defenses.refusal_transfer import template_tokens as found_tokens
from shiftdc_eval.defenses.srt_raw import SrtRaw
from shiftdc_eval.tasks.figstep.render import layout, render, render_whole

SETTINGS = GenerationSettings(max_new_tokens=2)


@pytest.fixture(autouse=True)
def font(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain loop draws with matplotlib's font; where FigStep's is installed it would come first."""
    monkeypatch.setenv("SHIFTDC_FONT", str(MONO))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The tiny LLaVA."""
    root = tmp_path_factory.mktemp("srt")
    return make_bench(save_loud("llava", root / "llava"), root)


def tools(bench: Bench) -> Tools:
    """With an empty cache in this process; each test has a folder of its own for the one on disk."""
    return Tools(bench.backbone, CaptionStore(None), Directions(bench.backbone, contrast=bench.contrast))


class Watched:
    """Lets a backbone answer, keeps what it was asked, and refuses some of it."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch, refuse: Sequence[str] = ()) -> None:
        self.answered: list[Chat] = []
        self.seen: list[Chat] = []
        """Chats whose activations were taken, each once."""
        generate, activations = bench.backbone.generate, bench.backbone.last_token_activations
        pictures = {drawn(text).tobytes() for text in refuse}

        def says(chats: Sequence[Chat], *args: Any, **kwargs: Any) -> list[Generated]:
            self.answered += chats
            no = bench.backbone.tokenizer.encode("I'm sorry", add_special_tokens=False)
            return [
                Generated("I'm sorry, I cannot.", 1, 4, tuple(no))
                if (chat.images and chat.images[0].tobytes() in pictures) or (refuse and not chat.images)
                else answer
                for chat, answer in zip(chats, generate(chats, *args, **kwargs), strict=True)
            ]

        def takes(chats: Sequence[Chat], *args: Any, **kwargs: Any) -> torch.Tensor:
            self.seen += chats
            return activations(chats, *args, **kwargs)

        monkeypatch.setattr(bench.backbone, "generate", says)
        monkeypatch.setattr(bench.backbone, "last_token_activations", takes)


def requests_of(texts: Sequence[str]) -> list[str]:
    return [text for text in texts if " Image Caption: " not in text]


def test_layer_token_and_g_are_the_plain_loops(bench: Bench) -> None:
    wanted = SRT.choose(bench.plain, bench.texts)
    found = SrtRaw(layers="1-2").direction_of(tools(bench))
    assert found.vectors.any(-1).nonzero().flatten().tolist() == [wanted.layer]
    row = found.vectors[wanted.layer]
    assert float((row - wanted.vector).norm() / wanted.vector.norm()) < 1e-4
    gain = float(wanted.gains[wanted.layer, wanted.token])
    said = re.search(
        r"layer (\d+), token (-\d+), chosen by G=(\S+) on 6 harmful and 6 benign", found.created_by
    )
    assert said is not None
    assert (int(said[1]), int(said[2])) == (wanted.layer, wanted.token)
    assert float(said[3]) == pytest.approx(gain, abs=1e-3)
    for told in (
        "6 of 6 harmful ones were answered",
        "it refused nothing, 'I'",
        "DejaVuSansMono-Bold.ttf (sha256 ",
    ):
        assert told in found.created_by
    others = wanted.gains.flatten().sort(descending=True).values
    assert others[0] - others[1] > 1e-3, "a near tie: the choice would show nothing"


def test_what_the_model_refuses_is_no_member_of_cm_and_shows_how_refusals_begin(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsafe = requests_of(bench.texts.unsafe)
    Watched(bench, monkeypatch, refuse=unsafe[:2])
    found = SrtRaw(layers="1-2").direction_of(tools(bench))
    wanted = Transfer((1, 2), refused=frozenset(unsafe[:2])).choose(bench.plain, bench.texts)
    assert float((found.vectors[wanted.layer] - wanted.vector).norm() / wanted.vector.norm()) < 1e-4
    assert "on 4 harmful and 6 benign" in found.created_by
    assert "4 of 6 harmful ones were answered; refusals begin with 'I'" in found.created_by


def test_a_model_that_answers_no_picture_gives_no_direction(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watched(bench, monkeypatch, refuse=requests_of(bench.texts.unsafe))
    with pytest.raises(DirectionError, match="answers none of 6 harmful requests that are drawn"):
        SrtRaw(layers="1").direction_of(tools(bench))


def test_it_is_fitted_on_the_fit_part_of_the_contrast_set_and_on_nothing_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(bench, monkeypatch)
    SrtRaw(layers="1", scored=2).direction_of(tools(bench))
    held_out = fit_texts(bench.contrast, held_out=True)
    unsafe, safe = (requests_of(side) for side in (bench.texts.unsafe, bench.texts.safe))
    assert not {*unsafe, *safe} & {*held_out.unsafe, *held_out.safe}
    pictures = {drawn(text).tobytes(): text for text in (*unsafe, *safe)}
    white = explicit("").images[0].tobytes()
    asked = {"plain": set(), "drawn": set()}
    for chat in watched.seen:
        (image,) = chat.images
        if image.tobytes() == white:
            asked["plain"].add(chat.request)
        else:
            assert chat.request == FIGSTEP
            asked["drawn"].add(pictures[image.tobytes()])  # a KeyError: drawn from elsewhere
    assert asked["plain"] == set(unsafe)
    assert asked["drawn"] >= set(unsafe)
    assert len(asked["drawn"] - set(unsafe)) == 2, "scored"


def test_it_is_fitted_once_for_each_setting_that_changes_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SrtRaw(layers="1-2", scored=1).direction_of(tools(bench))
    watched = Watched(bench, monkeypatch)
    for same in (SrtRaw(layers="1-2", scored=1), SrtRaw(layers="1-2", scored=1, alpha=3.0, decode=False)):
        found = same.direction_of(tools(bench))
        assert (found.sha256, found.created_by) == (first.sha256, first.created_by)
    assert not watched.seen
    SrtRaw(layers="1", scored=1).direction_of(tools(bench))
    assert watched.seen


def test_an_answer_names_the_choice_and_text_alone_is_edited_too(bench: Bench) -> None:
    using = tools(bench)
    chats = [Chat.ask(REQUESTS[0].text, REQUESTS[0].images), Chat.ask("only words")]
    on, off = (
        SrtRaw(layers="1", scored=1, alpha=alpha).answer(using, [Request(chat) for chat in chats], SETTINGS)
        for alpha in (30.0, 0.0)
    )
    note = SrtRaw(layers="1", scored=1).direction_of(using).created_by
    assert all(answer.notes == (note,) for answer in on)
    assert SrtRaw(layers="1", scored=1).fitted(using) == {"chosen": note}
    assert [answer.text for answer in off] == [
        bench.backbone.generate([chat], SETTINGS)[0].text for chat in chats
    ]
    assert all(a.text != b.text for a, b in zip(on, off, strict=True))


def outputs(bench: Bench, chats: list[Chat], defense: SrtRaw) -> list[torch.Tensor]:
    """What enters each decoder layer from the second on, in the first pass: `[batch, tokens, hidden]`."""
    seen: list[torch.Tensor] = []
    handles = [
        layer.register_forward_pre_hook(lambda _m, args: seen.append(args[0].clone()))
        for layer in bench.backbone.layers[1:]
    ]
    try:
        defense.answer(tools(bench), [Request(chat) for chat in chats], GenerationSettings(max_new_tokens=1))
    finally:
        for handle in handles:
            handle.remove()
    return seen[: len(handles)]


def test_all_tokens_of_the_layer_move_by_the_vector_and_earlier_layers_stay_bit_equal(bench: Bench) -> None:
    fit = SrtRaw(layers="1", scored=1).direction_of(tools(bench))
    chats = [Chat.ask(prompt.text, prompt.images) for prompt in REQUESTS]
    on, off = (outputs(bench, chats, SrtRaw(layers="1", scored=1, alpha=alpha)) for alpha in (1.0, 0.0))
    assert torch.equal(on[0], off[0])
    torch.testing.assert_close(on[1] - off[1], fit.vectors[1].expand_as(on[1]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(on[2], off[2])


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3", "internvl"])
def test_the_templates_tokens_after_a_request_are_counted(name: str, tmp_path: Path) -> None:
    folder = save_family(name, tmp_path / name)
    backbone = load_backbone(ModelSpec(str(folder), device="cpu"))
    assert found_tokens(backbone) == template_tokens(PlainModel(folder)) > 1


def test_a_long_request_is_drawn_whole_and_a_short_one_as_figstep_draws_it() -> None:
    short, long = "pick the red lock", "pick the red lock of the door " * 8
    assert render_whole(short, MONO).tobytes() == render(short, MONO).tobytes() == drawn(short).tobytes()

    def lowest(text: str) -> int:
        box = ImageChops.invert(render_whole(text, MONO)).getbbox()
        assert box is not None
        return box[3]

    assert layout(long).count("\n") > 12
    assert lowest(long) < 760, "its last line is not cut"
    for pair in load_contrast().pairs[:5]:
        assert lowest(pair.unsafe) < 760


def test_what_cannot_be_fitted_is_told_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    require_use(SrtRaw(), direction=None, contrast=Path("mine.jsonl"))
    with pytest.raises(ConfigError, match="direction=.* has no effect"):
        require_use(SrtRaw(), direction=Path("mine.safetensors"), contrast=None)
    monkeypatch.setenv("SHIFTDC_FONT", "/nowhere")
    with pytest.raises(DataError, match="SHIFTDC_FONT=/nowhere"):
        require_use(SrtRaw(), direction=None, contrast=Path("mine.jsonl"))


def test_the_record_holds_the_candidates(bench: Bench) -> None:
    found = json.loads(json.dumps(DEFENSES["srt_raw"]().resolved(bench.backbone)))
    assert found == {"alpha": 1.0, "decode": True, "layers": "0-3", "scored": 16, "chosen": "auto"}
    with pytest.raises(ConfigError, match="layers=9 does not fit"):
        SrtRaw(layers="9").resolved(bench.backbone)
