"""A delta survives its 8-bit file closely, and no other file passes for one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from shiftdc_eval.backbones.bundled.smol_delta import load_delta, pairs, unpack
from shiftdc_eval.core.errors import ModelError
from training.smol.training.delta_file import LEVELS, pack, save_delta

METADATA = {"base_sha256": "ab", "rank": "4", "seed": "0", "training_log_sha256": "cd"}


def _state(rank: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "decoder.q.lora_a": torch.randn(rank, 24),
        "decoder.q.lora_b": torch.randn(16, rank),
        "tower.conv.weight": torch.randn(8, 3, 4, 4),
        "tower.norm.bias": torch.randn(8),
    }


@given(st.floats(1e-6, 1e4), st.integers(0, 10))
def test_packing_moves_no_value_by_more_than_half_a_level(size: float, seed: int) -> None:
    matrix = size * torch.randn(5, 33, generator=torch.Generator().manual_seed(seed))
    restored = unpack(pack({"m": matrix}))["m"]
    # a float16 scale is up to one step above the exact one: 2^-10 of it, or 2^-24 where it is subnormal
    level = matrix.abs().amax(1, keepdim=True) / LEVELS * (1 + 2**-10) + 2**-24
    assert ((restored - matrix).abs() <= level / 2 * 1.001).all()


def test_zero_rows_stay_zero() -> None:
    assert unpack(pack({"m": torch.zeros(2, 3)}))["m"].count_nonzero() == 0


def test_matrices_are_bytes_and_vectors_halves() -> None:
    packed = pack(_state())
    assert packed["tower.conv.weight"].dtype == torch.int8
    assert packed["tower.conv.weight"].shape == (8, 48)
    assert packed["tower.conv.weight.scale"].shape == (8,)
    assert packed["tower.norm.bias"].dtype == torch.half


@pytest.mark.parametrize("bad", [torch.tensor([float("nan")]), torch.tensor(1.0), torch.full((2, 2), 1e9)])
def test_what_does_not_fit_is_not_packed(bad: Tensor) -> None:
    with pytest.raises(ModelError, match="'x'"):
        pack({"x": bad})


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    state = _state()
    del state["decoder.q.lora_b"]
    with pytest.raises(ModelError, match="decoder.q needs lora_a"):
        pairs(state)
    with pytest.raises(ModelError, match="decoder.q needs lora_a"):
        save_delta(tmp_path / "d.safetensors", state, METADATA)


def test_a_file_gives_back_what_was_packed_and_its_hash(tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    written = save_delta(path, _state(), METADATA)
    delta = load_delta(path)
    assert delta.sha256 == written
    assert delta.metadata == METADATA
    expected = unpack(pack(_state()))
    assert all(torch.equal(delta.state[name], expected[name]) for name in expected)
    assert [file.name for file in tmp_path.iterdir()] == ["delta.safetensors"]


def test_metadata_must_be_whole(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="seed"):
        save_delta(tmp_path / "d", _state(), {**METADATA, "seed": ""})


def test_a_changed_value_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    save_delta(path, _state(), METADATA)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="does not match its own hash"):
        load_delta(path)


def test_damaged_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "delta.safetensors"
    with pytest.raises(ModelError, match="no delta at"):
        load_delta(path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(ModelError, match="damaged"):
        load_delta(path)
    save_delta(path, _state(), METADATA)
    tensors = load_file(path)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="format 'pt'"):
        load_delta(path)


@pytest.mark.parametrize(
    "packed",
    [
        {"m": torch.zeros(2, 2, dtype=torch.int8)},
        {"m.scale": torch.zeros(2, dtype=torch.half)},
        {"m": torch.zeros(2, 2)},
        {"v": torch.zeros(2)},
        {"m": torch.zeros(2, 2, dtype=torch.int8), "m.scale": torch.zeros(3, dtype=torch.half)},
    ],
)
def test_tensors_of_another_form_are_refused(packed: dict[str, Tensor]) -> None:
    with pytest.raises(ModelError, match="neither a float16 vector nor an int8 matrix"):
        unpack(packed)
