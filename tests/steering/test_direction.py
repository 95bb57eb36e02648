import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from shiftdc_eval.core.errors import DirectionError
from shiftdc_eval.steering import SafetyDirection, fit_direction


def direction(**changes: object) -> SafetyDirection:
    torch.manual_seed(0)
    made = SafetyDirection(torch.randn(4, 8), "org/model", "abc", "template", "contrast", 10, 12, "test")
    return dataclasses.replace(made, **changes)


def test_the_direction_points_from_the_unsafe_mean_to_the_safe_mean() -> None:
    safe = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    unsafe = torch.tensor([[[0.0, 1.0]]])
    assert fit_direction(safe, unsafe).tolist() == [[2.0, 2.0]]


@pytest.mark.parametrize(
    ("safe", "unsafe"), [((0, 2, 3), (4, 2, 3)), ((4, 2, 3), (4, 2, 4)), ((4, 3), (4, 3))]
)
def test_activations_that_do_not_fit_are_refused(safe: tuple[int, ...], unsafe: tuple[int, ...]) -> None:
    with pytest.raises(DirectionError, match=r"activations must be|needs samples"):
        fit_direction(torch.zeros(safe), torch.zeros(unsafe))


def test_a_direction_survives_saving(tmp_path: Path) -> None:
    made = direction()
    made.save(tmp_path / "d.safetensors")
    read = SafetyDirection.load(tmp_path / "d.safetensors")
    assert torch.equal(read.vectors, made.vectors)
    assert read.sha256 == made.sha256
    assert (read.model, read.samples_unsafe, read.created_by) == ("org/model", 12, "test")


def test_the_hash_covers_vectors_and_origin_but_not_who_made_it() -> None:
    hashes = {
        direction().sha256,
        direction(vectors=torch.ones(4, 8)).sha256,
        direction(revision="other").sha256,
        direction(contrast_sha256="other").sha256,
    }
    assert len(hashes) == 4
    assert direction(created_by="someone").sha256 == direction().sha256


def test_files_that_are_no_direction_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DirectionError, match="no safety direction at"):
        SafetyDirection.load(tmp_path / "missing.safetensors")
    (tmp_path / "text.safetensors").write_text("not a tensor")
    with pytest.raises(DirectionError, match="damaged"):
        SafetyDirection.load(tmp_path / "text.safetensors")
    save_file({"vectors": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(DirectionError, match="is not a safety direction"):
        SafetyDirection.load(tmp_path / "other.safetensors")


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "d.safetensors"
    direction().save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DirectionError, match="does not match its own hash"):
        SafetyDirection.load(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"layers": 5}, "decoder layers 4 (here 5)"),
        ({"hidden": 9}, "hidden size 8 (here 9)"),
        ({"revision": "zzz"}, "weights org/model@abc (here org/model@zzz)"),
        ({"template_sha256": "t2"}, "chat template template (here t2)"),
    ],
)
def test_a_direction_of_another_model_is_refused_and_says_what_differs(
    change: dict[str, object], said: str
) -> None:
    here = {"layers": 4, "hidden": 8, "model": "org/model", "revision": "abc", "template_sha256": "template"}
    direction().check_fits(**here, source="file")  # type: ignore[arg-type]
    with pytest.raises(DirectionError) as caught:
        direction().check_fits(**{**here, **change}, source="file")  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_the_random_control_has_the_same_norms_and_depends_on_its_seed() -> None:
    made = direction()
    control = made.random_like(1)
    torch.testing.assert_close(control.vectors.norm(dim=-1), made.vectors.norm(dim=-1))
    assert torch.equal(control.vectors, made.random_like(1).vectors)
    assert not torch.equal(control.vectors, made.random_like(2).vectors)
    assert control.sha256 != made.sha256
