"""The subspace reading and ShiftDC's online rule: where they are one, and where this one cannot help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fixed_directions import FixedDirections
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from plain_cases import picture
from torch import Tensor

from shiftdc_eval.backbones import Backbone, Chat, Generated, GenerationSettings, ModelSpec, load_backbone
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses import DEFENSES, NOT_APPLICABLE, Request, Tools
from shiftdc_eval.defenses.caption_store import CaptionStore
from shiftdc_eval.defenses.subspace import Subspace
from shiftdc_eval.steering import OnlineCalibration, SafetyDirection, SubspaceReplacement
from shiftdc_eval.tasks.figstep.files import PROMPT

SETTINGS = GenerationSettings(max_new_tokens=8)
numbers = st.floats(-100, 100, allow_nan=False, width=32)


def matrices(rows: int, width: int) -> st.SearchStrategy[Tensor]:
    row = st.lists(numbers, min_size=width, max_size=width)
    return st.lists(row, min_size=rows, max_size=rows).map(torch.tensor)


@given(matrices(3, 6), matrices(3, 6), matrices(1, 6).filter(lambda s: float(s.norm()) > 1e-2))
def test_rank_one_is_the_online_rule(x: Tensor, text: Tensor, s: Tensor) -> None:
    found = SubspaceReplacement(text, s / s.norm())(x)
    torch.testing.assert_close(found, OnlineCalibration(text, s[0])(x), rtol=1e-5, atol=1e-4)


@given(matrices(2, 6), matrices(2, 6), st.integers(0, 10_000), st.integers(1, 6))
def test_the_text_runs_coordinates_are_met_and_nothing_else_moves(
    x: Tensor, text: Tensor, seed: int, rank: int
) -> None:
    whole = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))).Q
    basis, rest = whole[:rank], whole[rank:]
    found = SubspaceReplacement(text, basis, gated=True)(x)
    for row in range(2):
        is_open = float(text[row].double() @ basis[0].double()) > 0
        if abs(float(text[row] @ basis[0])) > 1e-3:
            met = text[row] if is_open else x[row]
            torch.testing.assert_close(basis @ found[row], basis @ met, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found @ rest.T, x @ rest.T, rtol=1e-4, atol=1e-3)


class OneDirection(FixedDirections):
    """The safety direction's own line in the place of the fitted basis."""

    def fitted(self, kind: str, vectors: Callable[..., Any]) -> SafetyDirection:
        unit = self.direction.vectors / self.direction.vectors.norm(dim=1, keepdim=True)
        return SafetyDirection(unit, "tiny", "r", "t", "c", 1, 1)


@pytest.fixture(scope="module")
def backbone(tiny_llava: Path) -> Backbone:
    return load_backbone(ModelSpec(str(tiny_llava), device="cpu"))


@pytest.fixture
def tools(backbone: Backbone) -> Tools:
    vectors = torch.randn(4, 32, generator=torch.Generator().manual_seed(5)) * 3
    direction = SafetyDirection(vectors, "tiny", "r", "t", "c", 1, 1)
    return Tools(backbone, CaptionStore(None), OneDirection(direction))


def batch() -> list[Request]:
    pictures = [picture(at, 30 + 20 * at, 40) for at in range(3)]
    asked = [Request(Chat.ask(f"what is in picture {at}" * (at + 1), [pictures[at]])) for at in range(3)]
    return [*asked, Request(Chat.ask("only words"))]


@pytest.mark.parametrize(
    ("settings", "name", "other"),
    [
        ({"query": "caption", "caption_max_new_tokens": 6}, "shiftdc", {"caption_max_new_tokens": 6}),
        ({"query": "raw", "unsafe_only": False}, "shiftdc_captioned", {"caption": "none"}),
    ],
)
def test_along_the_safety_direction_the_answers_are_shiftdcs(
    tools: Tools, settings: dict[str, Any], name: str, other: dict[str, Any]
) -> None:
    mine = Subspace(rank=1, layers="1-3", **settings).answer(tools, batch(), SETTINGS)
    theirs = DEFENSES[name](layers="1-3", **other).answer(tools, batch(), SETTINGS)
    assert [(a.text, a.notes, a.extra.get("caption")) for a in mine] == [
        (a.text, a.notes, a.extra.get("caption")) for a in theirs
    ]
    assert mine[3].notes == (NOT_APPLICABLE,)
    undefended = DEFENSES["none"]().answer(tools, batch(), SETTINGS)
    assert [a.text for a in mine] != [a.text for a in undefended]


def test_figsteps_innocuous_query_sets_the_same_target_whatever_the_picture_says(
    tools: Tools, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nothing of the harm, which only the picture has, can come back."""
    seen: list[SubspaceReplacement] = []

    def generate(chats: Any, settings: Any, *, edit: Any, **_: Any) -> list[Any]:
        seen.extend(edit(list(range(len(chats)))).values())
        return [Generated("", 1, 1, ()) for _ in chats]

    monkeypatch.setattr(tools.backbone, "generate", generate)
    shown = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    requests = [Request(Chat.ask(PROMPT, [image])) for image in shown]
    Subspace(rank=1).answer(tools, requests, SETTINGS)
    text = tools.backbone.last_token_activations([Chat.ask(PROMPT)], [2, 3])[0]
    for at, edit in enumerate(seen):
        torch.testing.assert_close(edit.text_only, text[at].expand(2, -1), rtol=1e-5, atol=1e-5)
    assert len(seen) == 2


def test_more_singular_vectors_than_there_are_are_refused(backbone: Backbone) -> None:
    with pytest.raises(ConfigError, match="rank=33 does not fit a model of width 32"):
        Subspace(rank=33).resolved(backbone)
    fixed = FixedDirections(SafetyDirection(torch.ones(4, 32), "tiny", "r", "t", "c", 1, 1))
    with pytest.raises(ConfigError, match="rank=20: the contrast set has 16 pairs of texts to fit on"):
        Subspace(rank=20).answer(Tools(backbone, CaptionStore(None), fixed), batch(), SETTINGS)


def test_gate_layers_and_passes_are_said(backbone: Backbone) -> None:
    raw, captioned = Subspace().resolved(backbone), Subspace(query="caption").resolved(backbone)
    assert (raw["unsafe_only"], raw["layers"], captioned["unsafe_only"]) == (True, "2-3", False)
    assert [one.kind for one in Subspace().extra_passes()] == ["activations"]
    assert [one.kind for one in Subspace(query="caption").extra_passes()] == ["captions", "activations"]
    assert "reconstruction after VLM-Guard" in Subspace.source
