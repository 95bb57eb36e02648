"""Recordings on disk: what is written comes back, and what is damaged is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import CONDITIONS, Planted, write

from shiftdc_eval.analysis import recording_file as shards
from shiftdc_eval.analysis.recording_file import Manifest, Recording
from shiftdc_eval.core.errors import ConfigError, RecordError


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Manifest]:
    return tmp_path, write(tmp_path, Planted(questions=40))


def test_layers_come_back_in_the_order_of_the_items(recorded: tuple[Path, Manifest]) -> None:
    folder, manifest = recorded
    layer = Recording(folder).layer(1)
    assert set(layer) == set(CONDITIONS)
    assert layer["image"].shape == (80, 48)
    assert layer["image"].dtype == np.float32
    assert [row["id"] for row in Recording(folder).answers()] == [item.id for item in manifest.items]


def test_activations_beyond_the_range_of_sixteen_bits_come_back(tmp_path: Path) -> None:
    manifest = write(tmp_path, Planted(questions=12))
    large = {name: np.ones((24, 2, 48), dtype=np.float32) for name in CONDITIONS}
    large["image"][:, 1, 7] = 3.0e6
    shards.write_shard(tmp_path, manifest, 0, large, [{"id": item.id} for item in manifest.items])
    recording = Recording(tmp_path)
    assert recording.layer(1)["image"][5, 7] == pytest.approx(3.0e6, rel=1e-3)
    assert recording.layer(1)["image"][5, 8] == pytest.approx(1.0, rel=1e-3)
    assert recording.layer(0)["image"][5, 7] == 1.0


def test_activations_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    manifest = write(tmp_path, Planted(questions=12))
    broken = {name: np.ones((24, 2, 48), dtype=np.float32) for name in CONDITIONS}
    broken["blank"][3, 1, 0] = np.nan
    with pytest.raises(RecordError, match="condition blank: the activations of layer 1 are not finite"):
        shards.write_shard(tmp_path, manifest, 0, broken, [])


@pytest.mark.parametrize("how", ["flipped", "answers", "cut", "empty"])
def test_a_damaged_shard_is_named_in_one_line(recorded: tuple[Path, Manifest], how: str) -> None:
    folder, _ = recorded
    path = folder / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[-100] ^= 0x10
    elif how == "answers":
        content[content.index(b"take the kite")] ^= 0x10
    path.write_bytes(b"" if how == "empty" else content[:-7] if how == "cut" else content)
    with pytest.raises(
        RecordError, match=r"shard-00001\.safetensors is damaged .*delete that file"
    ) as caught:
        Recording(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_an_incomplete_recording(recorded: tuple[Path, Manifest]) -> None:
    folder, _ = recorded
    (folder / "shard-00001.safetensors").unlink()
    with pytest.raises(
        RecordError, match=r"shard-00001\.safetensors is missing: the recording is not complete"
    ):
        Recording(folder)


def test_a_shard_of_another_recording_is_refused(recorded: tuple[Path, Manifest], tmp_path: Path) -> None:
    folder, _ = recorded
    other = tmp_path / "other"
    write(other, Planted(questions=40), revision="1")
    (other / "shard-00000.safetensors").replace(folder / "shard-00000.safetensors")
    with pytest.raises(RecordError, match="belongs to another recording"):
        Recording(folder)


def test_a_folder_keeps_to_one_recording_and_says_what_differs(recorded: tuple[Path, Manifest]) -> None:
    folder, manifest = recorded
    shards.create(folder, manifest)
    with pytest.raises(ConfigError, match="differs in revision, dtype; give another folder"):
        shards.create(folder, manifest.model_copy(update={"revision": "2", "dtype": "bfloat16"}))


@pytest.mark.parametrize("content", ["", "{", '{"format": "shiftdc-recording-1"}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RecordError, match=r"manifest\.json is damaged"):
        shards.read_manifest(tmp_path)
    with pytest.raises(RecordError, match="no recording there"):
        shards.read_manifest(tmp_path / "nowhere")
