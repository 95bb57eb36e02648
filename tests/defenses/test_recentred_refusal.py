"""The reconstruction of MARS: its gate, the choice of its layer, what it says of itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain_bench import make_bench, save_loud
from plain_defenses import fit_texts, safety_direction, text_pass

from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses.contrast import load_contrast
from shiftdc_eval.defenses.recentred_refusal import COLOURS, RecentredRefusal, neutral_requests
from shiftdc_eval.steering import TrustRegionShift


@given(st.integers(0, 100_000), st.floats(0, 5), st.booleans())
def test_one_side_is_left_alone_and_the_other_comes_no_further_than_the_unsafe_centroid(
    seed: int, alpha: float, safe_side: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    safe, unsafe = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    x = 3 * torch.randn(8, 5, generator=generator, dtype=torch.float64)
    r, middle = unsafe - safe, (safe + unsafe) / 2

    def coordinate(rows: torch.Tensor) -> torch.Tensor:
        return (rows - middle) @ r / (r @ r)

    edit = TrustRegionShift(r, middle, alpha, safe_side)
    assert float(coordinate(safe)) == pytest.approx(-0.5)
    assert float(coordinate(edit(unsafe))) == pytest.approx(0.5), "the centroid itself is not passed"
    before, after = coordinate(x), coordinate(edit(x))
    for a, b in zip(before.tolist(), after.tolist(), strict=True):
        is_open = a < 0 if safe_side else a > 0
        wanted = min(a + alpha * abs(a), max(a, 0.5)) if is_open else a
        assert b == pytest.approx(wanted, abs=1e-9)


def test_the_layer_is_where_held_out_texts_lie_furthest_apart(tmp_path: Path) -> None:
    bench = make_bench(save_loud("llava", tmp_path / "llava"), tmp_path)
    held_out = fit_texts(bench.contrast, held_out=True)
    direction = safety_direction(bench.plain, bench.texts)
    separation = []
    for layer in range(4):
        s = direction[layer]
        safe, unsafe = (
            torch.stack([text_pass(bench.plain, text, False).outputs[layer] @ s / (s @ s) for text in side])
            for side in (held_out.safe, held_out.unsafe)
        )
        pooled = ((safe.std() ** 2 + unsafe.std() ** 2) / 2) ** 0.5
        separation.append(float((safe.mean() - unsafe.mean()) / pooled))
    found = RecentredRefusal().fitted(bench.tools())
    assert found["layer"] == separation.index(max(separation))
    assert found["fitted"]["separation"] == pytest.approx(max(separation), rel=1e-3)
    assert RecentredRefusal(layer=1).fitted(bench.tools()) == {}
    assert RecentredRefusal().resolved(bench.backbone)["layer"] == "auto"


def test_thirty_two_texts_meet_eight_colours() -> None:
    fitted, held_out = load_contrast().split(0.2)
    texts = neutral_requests(fitted)
    assert len(set(texts)) == 32
    assert not set(texts) & set(held_out.prompts("safe") + held_out.prompts("unsafe"))
    assert len(set(COLOURS)) == 8
    assert torch.tensor(COLOURS).float().mean(0).tolist() == [128.0] * 3, "grey on average"


def test_a_layer_that_there_is_not_is_refused_without_weights_and_the_name_is_qualified() -> None:
    shape: Any = SimpleNamespace(layers=range(4), hidden_size=8)
    with pytest.raises(ConfigError, match="layer=4 does not fit a model with decoder layers 0 to 3"):
        RecentredRefusal(layer=4).resolved(shape)
    assert RecentredRefusal.source.startswith("ours; a reconstruction after MARS")
    assert RecentredRefusal().extra_passes() == ()
