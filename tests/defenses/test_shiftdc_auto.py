"""Layers and strength that ShiftDC chooses on drawn held-out pairs, against a plain loop over all candidates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from plain_bench import Bench, make_bench, save_loud
from plain_cases import REQUESTS
from plain_defenses import FIGSTEP, fit_texts
from plain_defenses import ShiftDC as Plain
from plain_runs import Answered, PlainModel, Prompt
from pydantic import ValidationError
from torch import Tensor

from shiftdc_eval.backbones import Chat, GenerationSettings
from shiftdc_eval.backbones.interface import IN_VLLM
from shiftdc_eval.defenses import DEFENSES, Request
from shiftdc_eval.defenses import directions as directions_module
from shiftdc_eval.defenses.refusal_transfer import FONT
from shiftdc_eval.defenses.shiftdc import ShiftDC
from shiftdc_eval.defenses.shiftdc_auto import ranges
from shiftdc_eval.tasks.figstep.render import render_whole
from shiftdc_eval.tasks.fonts import find_font

SHORT = {"layers": "auto", "caption_max_new_tokens": 4}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("auto")
    return make_bench(save_loud("llava", root / "llava"), root)


class Logits(PlainModel):
    """The plain model, whose answers show the first step's logits."""

    def __init__(self, inner: PlainModel) -> None:
        self.__dict__ = inner.__dict__

    def answer(
        self, sides: Any, tokens: int, mix: Callable[[list[Tensor]], Tensor] | None = None
    ) -> Answered:
        if tokens > 1:
            return super().answer(sides, tokens)
        inputs, edits = sides[0]
        return Answered("", self.run(inputs, edits).logits, 0)


def gains(bench: Bench) -> dict[tuple[str, float], float]:
    """Candidate -> how much it raises the log-odds of `I` for unsafe against safe pictures; nothing is refused here."""
    model = Logits(bench.plain)
    opening = model.processor.tokenizer("I", add_special_tokens=False)["input_ids"][0]
    held_out, font = fit_texts(bench.contrast, held_out=True), find_font(FONT)
    requests = [
        [text for text in side if "Image Caption" not in text] for side in (held_out.unsafe, held_out.safe)
    ]

    def apart(layers: tuple[int, ...], alpha: float) -> float:
        means = []
        for side in requests:
            found = []
            for text in side:
                asked = Prompt(FIGSTEP, (render_whole(text, font),))
                defended = Plain(layers=layers, alpha=alpha, caption_tokens=4)(model, asked, bench.texts, 1)
                p = defended.stream.double().softmax(-1)[opening]
                found.append(float(torch.log(p + 1e-8) - torch.log(1 - p + 1e-8)))
            means.append(sum(found) / len(found))
        return means[0] - means[1]

    usual = apart((), 1.0)
    return {
        (f"{start}-3", alpha): apart(tuple(range(start, 4)), alpha) - usual
        for start in (1, 2, 3)
        for alpha in (0.5, 1.0, 2.0)
    }


def test_range_and_strength_with_the_largest_gain_are_taken_and_recorded(bench: Bench) -> None:
    wanted = gains(bench)
    best = max(wanted, key=lambda one: wanted[one])
    assert sorted(wanted.values())[-1] - sorted(wanted.values())[-2] > 1e-4, (
        "the choice is not one of rounding"
    )
    defense = ShiftDC(**SHORT)  # type: ignore[arg-type]
    assert defense.resolved(bench.backbone)["layers"] == "auto"
    assert defense.resolved(bench.backbone)["alpha"] == "auto"
    found = defense.fitted(bench.tools())
    assert (found["layers"], found["alpha"]) == best
    assert found["fitted"]["gain"] == pytest.approx(wanted[best], rel=1e-2, abs=1e-3)
    assert found["fitted"]["usual"] == pytest.approx(wanted["2-3", 1.0], rel=1e-2, abs=1e-3)
    assert (found["fitted"]["pictures"], found["fitted"]["own_refusals"]) == (4, False)
    requests = [Request(Chat.ask(prompt.text, prompt.images)) for prompt in REQUESTS]
    settings = GenerationSettings(max_new_tokens=6)
    fixed = ShiftDC(layers=best[0], alpha=best[1], caption_max_new_tokens=4)
    mine, same = ([a.text for a in one.answer(bench.tools(), requests, settings)] for one in (defense, fixed))
    assert mine == same


def test_the_choice_is_the_same_again_and_a_given_strength_is_kept(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ShiftDC(**SHORT).fitted(bench.tools())  # type: ignore[arg-type]
    monkeypatch.setattr(directions_module, "_CHOSEN", {})
    assert ShiftDC(**SHORT).fitted(bench.tools()) == first  # type: ignore[arg-type]
    given = ShiftDC(**SHORT, alpha=1.5)  # type: ignore[arg-type]
    assert given.resolved(bench.backbone)["alpha"] == 1.5
    found = given.fitted(bench.tools())
    assert found["alpha"] == 1.5
    assert found["fitted"]["gain"] != first["fitted"]["gain"]


def test_candidates_end_at_the_last_layer_and_the_default_comes_first() -> None:
    assert ranges(32) == ["16-31", "8-31", "12-31", "20-31", "24-31"]
    assert ranges(2) == ["1-1", "0-1"]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("random", {}),
        ("shiftdc", {"random_seed": 3}),
        ("shiftdc_captioned", {}),
        ("shiftdc", {"variant": "official"}),
    ],
)
def test_controls_and_the_authors_code_choose_nothing(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="layers=auto belongs to defense=shiftdc without random_seed"):
        DEFENSES[name](layers="auto", **settings)


def test_it_reads_logits_which_vllm_does_not_offer() -> None:
    assert ShiftDC(layers="auto").needed() - IN_VLLM == {"logits"}
    assert ShiftDC().needed() <= IN_VLLM
    assert ShiftDC().fitted(None) == {}  # type: ignore[arg-type]
