"""The norm-keeping calibration as an invariant."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from shiftdc_eval.steering import OnlineCalibration, safety_coordinate


@given(st.integers(0, 100_000), st.floats(0.1, 30), st.booleans())
def test_norm_and_coordinate_are_kept_in_the_plane_of_activation_and_direction(
    seed: int, far: float, one_sided: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, text, s = (torch.randn(rows, 5, generator=generator, dtype=torch.float64) for rows in (4, 4, 1))
    text = far * text
    found = OnlineCalibration(text, s[0], one_sided=one_sided, keep_norm=True)(x)
    torch.testing.assert_close(found.norm(dim=1), x.norm(dim=1))
    plain = OnlineCalibration(text, s[0], one_sided=one_sided)(x)
    along, most = safety_coordinate(plain, s[0]), x.norm(dim=1) / s.norm()
    torch.testing.assert_close(safety_coordinate(found, s[0]), along.clamp(-most, most))
    off = [one - safety_coordinate(one, s[0])[:, None] * s for one in (found, x)]
    torch.testing.assert_close(off[0] * off[1].norm(dim=1)[:, None], off[1] * off[0].norm(dim=1)[:, None])


@given(st.integers(0, 100_000))
def test_strength_zero_changes_no_bit(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, text, s = (torch.randn(rows, 5, generator=generator) for rows in (4, 4, 1))
    assert torch.equal(OnlineCalibration(text, s[0], alpha=0, keep_norm=True)(x), x)


def test_what_lies_along_the_direction_keeps_finite() -> None:
    s = torch.tensor([2.0, 0.0, 0.0])
    for x in (s, torch.zeros(3)):
        assert torch.isfinite(OnlineCalibration(-s[None], s, keep_norm=True)(x[None])).all()
    zero = OnlineCalibration(s[None], torch.zeros(3), keep_norm=True)(s[None])
    assert torch.equal(zero, s[None])
