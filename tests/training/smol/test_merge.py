"""Base and delta make exactly the model they should, once, whole, and the same on every machine."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shiftdc_eval.backbones import Chat, GenerationSettings, ModelSpec, load_backbone, loading
from shiftdc_eval.backbones.bundled import smol_base as base_module
from shiftdc_eval.backbones.bundled import smol_merge as merge_module
from shiftdc_eval.backbones.bundled.smol_delta import load_delta, unpack
from shiftdc_eval.backbones.bundled.smol_merge import apply, cached_folder, merge, revision_of, tower_size
from shiftdc_eval.backbones.revision import FILE, recorded_revision
from shiftdc_eval.core.errors import ModelError
from shiftdc_eval.core.paths import cache_dir
from training.smol.training.delta_file import pack, save_delta

pytest.importorskip("gguf", reason="the base is a GGUF file: pip install gguf")

from tiny_base import merge_in_process, random_delta, write_base, write_delta


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Tensor]]:
    """Base file, delta file, and the base's weights."""
    folder = tmp_path_factory.mktemp("parts")
    weights = write_base(folder / "base.gguf")
    write_delta(folder / "delta.safetensors", folder / "base.gguf")
    return folder / "base.gguf", folder / "delta.safetensors", weights


@pytest.fixture(scope="module")
def folder(parts: tuple[Path, Path, dict[str, Tensor]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The merged folder."""
    out = tmp_path_factory.mktemp("merged") / "model"
    merge(parts[0], load_delta(parts[1]), out)
    return out


def test_merged_weights_are_base_plus_product(
    parts: tuple[Path, Path, dict[str, Tensor]], folder: Path
) -> None:
    _, _, weights = parts
    delta = unpack(pack(random_delta()))
    merged = load_backbone(ModelSpec(str(folder), dtype="float32", device="cpu")).model.state_dict()
    changed = 0
    for name, weight in weights.items():
        if name == "lm_head.weight":
            continue
        inner = name.replace("model.", "model.language_model.", 1)
        module = inner.removesuffix(".weight")
        expected = weight.double()
        if f"{module}.lora_a" in delta:
            expected = expected + delta[f"{module}.lora_b"].double() @ delta[f"{module}.lora_a"].double()
            assert not torch.equal(merged[inner], weight.half().float())
            changed += 1
        assert torch.equal(merged[inner], expected.half().float()), name
    assert changed == 2 * 7
    for name, tensor in delta.items():
        if not name.endswith((".lora_a", ".lora_b")):
            assert torch.equal(merged[name].flatten(), tensor.half().float().flatten()), name


def test_the_folder_answers_like_any_other(folder: Path) -> None:
    from PIL import Image

    backbone = load_backbone(ModelSpec(str(folder), device="cpu"))
    image = Image.new("RGB", (300, 200), "white")
    chats = [Chat.ask("hello", [image]), Chat.ask("hello"), Chat.ask("hello there", [image])]
    answers = backbone.generate(chats, GenerationSettings(max_new_tokens=4))
    assert [answer.tokens_in > 256 for answer in answers] == [True, False, True]
    assert backbone.model.generation_config.eos_token_id == 2


def test_the_folders_revision_says_what_went_in_and_not_where(
    parts: tuple[Path, Path, dict[str, Tensor]], folder: Path, tmp_path: Path
) -> None:
    delta = load_delta(parts[1])
    revision = loading.folder_revision(folder)
    assert revision == revision_of(delta)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / FILE).unlink()
    (copy / "config.json").write_text(json.dumps({**config, "transformers_version": "9"}), encoding="utf-8")
    assert loading.folder_revision(copy) != revision
    other = tmp_path / "delta.safetensors"
    save_delta(other, random_delta(seed=5), delta.metadata)
    assert revision_of(load_delta(other)) != revision


def test_a_changed_file_is_another_model(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "chat_template.jinja").write_text("other", encoding="utf-8")
    assert loading.folder_revision(copy) != loading.folder_revision(folder)
    assert recorded_revision(copy, "anything") is None


def _cached(parts: tuple[Path, Path, dict[str, Tensor]]) -> Path:
    merge_module._cached.cache_clear()  # as in another process
    return cached_folder(parts[1], parts[0])


def test_it_is_merged_once_and_again_when_damaged(
    parts: tuple[Path, Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(merge_module, "merge", lambda *a: (made.append(1), merge(*a)))
    first = _cached(parts)
    assert _cached(parts) == first
    assert len(made) == 1
    assert first.parent == cache_dir() / "models"
    weights = first / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert _cached(parts) == first
    assert len(made) == 2
    assert loading.folder_revision(first) == revision_of(load_delta(parts[1]))


def test_a_merge_that_fails_leaves_nothing(
    parts: tuple[Path, Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(merge_module, "record", killed)
    with pytest.raises(KeyboardInterrupt):
        merge(parts[0], load_delta(parts[1]), tmp_path / "out" / "model")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_merge_left_is_no_model_and_is_cleared(
    parts: tuple[Path, Path, dict[str, Tensor]],
) -> None:
    revision = revision_of(load_delta(parts[1]))
    left = cache_dir() / "models" / f".smol-{revision[:16]}.abc.part"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    folder = _cached(parts)
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


@pytest.mark.slow
def test_two_processes_merge_one_folder(parts: tuple[Path, Path, dict[str, Tensor]], tmp_path: Path) -> None:
    cache = str(tmp_path / "shared")
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=merge_in_process, args=(*parts[:2], cache)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len([path for path in Path(cache, "models").iterdir() if path.is_dir()]) == 1


def test_another_base_is_refused(parts: tuple[Path, Path, dict[str, Tensor]], tmp_path: Path) -> None:
    write_base(tmp_path / "other.gguf", seed=3)
    with pytest.raises(ModelError, match="another base than the delta was made for"):
        merge(tmp_path / "other.gguf", load_delta(parts[1]), tmp_path / "out")
    with pytest.raises(ModelError, match="no file"):
        merge(tmp_path / "absent.gguf", load_delta(parts[1]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_not_written_over(
    parts: tuple[Path, Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="exists already"):
        merge(parts[0], load_delta(parts[1]), tmp_path / "out")


def test_deltas_that_do_not_fit_are_refused() -> None:
    shapes = {
        "model.language_model.layers.0.mlp.up_proj.weight": torch.Size([4, 3]),
        "model.vision_tower.a.weight": torch.Size([2]),
    }
    base = {"model.language_model.layers.0.mlp.up_proj.weight": torch.zeros(4, 3)}
    tower = {"model.vision_tower.vision_model.a.weight": torch.ones(2)}
    module = "model.language_model.layers.0.mlp.up_proj"
    pair = {f"{module}.lora_a": torch.ones(1, 3), f"{module}.lora_b": torch.ones(4, 1)}
    assert apply(base, tower | pair, shapes)[f"{module}.weight"].sum() == 12
    assert base[f"{module}.weight"].sum() == 0
    for delta, message in (
        (pair, "model.vision_tower.a.weight .* is missing"),
        (tower | {"model.vision_tower.b.weight": torch.ones(2)}, "b.weight is no part of the model"),
        (
            tower | {f"{module}.lora_a": torch.ones(1, 4), f"{module}.lora_b": torch.ones(4, 1)},
            "does not fit",
        ),
        (tower | {"x.lora_a": torch.ones(1, 3), "x.lora_b": torch.ones(4, 1)}, "missing module"),
        ({"model.vision_tower.a.weight": torch.ones(3)}, r"a.weight \[2\] is \[3\]"),
    ):
        with pytest.raises(ModelError, match=message):
            apply(base, delta, shapes)
    with pytest.raises(ModelError, match="no vision tower"):
        tower_size(pair)


def test_absent_weights_are_one_line_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no delta at .*: reinstall the package, or train one"):
        cached_folder(tmp_path / "delta.safetensors")


def test_an_absent_base_is_one_line_that_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_module, "PACKAGE", "no_such_package_of_a_base")
    with pytest.raises(ModelError, match="run `make smol`") as caught:
        base_module.base_file()
    assert "\n" not in str(caught.value)


def test_the_base_is_found_without_importing_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "shell_of_a_base"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(base_module, "PACKAGE", package.name)
    with pytest.raises(ModelError, match="is missing"):
        base_module.base_file()
    (package / base_module.FILE).write_bytes(b"weights")
    with pytest.raises(ModelError, match="another base"):
        base_module.base_file()


def test_the_bundled_name_loads_with_its_caveat(
    parts: tuple[Path, Path, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_module, "cached_folder", lambda: _cached(parts))
    backbone = load_backbone(ModelSpec("smol", device="cpu"))
    assert backbone.name == "smol"
    assert backbone.note.startswith("small research model")
    assert backbone.revision == revision_of(load_delta(parts[1]))
