"""ASTRA beside its plain loop: rows of a batch, the choice of the strength, the authors' files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hand_made_requests import through_the_adapter
from plain_bench import Bench, make_bench, save_loud
from plain_cases import REQUESTS
from plain_defenses import Astra as Plain
from plain_defenses import fit_texts
from pydantic import ValidationError

from shiftdc_eval.backbones import Chat, GenerationSettings
from shiftdc_eval.backbones.interface import IN_VLLM
from shiftdc_eval.core.errors import ConfigError
from shiftdc_eval.defenses import Request
from shiftdc_eval.defenses.astra import Astra
from shiftdc_eval.defenses.astra_files import published
from shiftdc_eval.steering import CosineGated


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("astra")
    return make_bench(save_loud("llava", root / "llava"), root)


def test_every_row_is_scaled_by_its_own_norm() -> None:
    """The authors' code takes the norms over the whole batch: it is right for one row alone."""
    generator = torch.Generator().manual_seed(2)
    rows, v, c = (torch.randn(n, 6, generator=generator) for n in (4, 1, 1))
    edit = CosineGated(v[0], c[0], 2.0)
    alone = torch.cat([edit(row[None]) for row in rows])
    torch.testing.assert_close(edit(rows), alone)
    gates = torch.tensor([float((row - c[0]) @ v[0] / ((row - c[0]).norm() * v[0].norm())) for row in rows])
    assert (gates > 0).any()
    assert (gates < 0).any()
    moved = -((edit(rows) - rows) @ v[0]) / v[0].norm()
    torch.testing.assert_close(moved, 2 * gates.clamp(0, 1) * rows.norm(dim=1))
    assert torch.equal(edit(rows)[gates < 0], rows[gates < 0])


def test_the_strength_is_the_largest_that_leaves_benign_first_tokens(bench: Bench) -> None:
    found = Astra(layer=2).fitted(bench.tools())
    assert found["alpha"] == Plain(2, 0.0).chosen(
        bench.plain, bench.texts, fit_texts(bench.contrast, held_out=True)
    )
    assert found["fitted"]["texts"] == len(fit_texts(bench.contrast, held_out=True).safe)
    assert found["fitted"]["first_tokens_changed"] < 0.05
    assert Astra(layer=2).resolved(bench.backbone)["alpha"] == "auto"
    assert Astra(alpha=1.0).fitted(bench.tools()) == {}
    requests = [Request(Chat.ask(prompt.text, prompt.images)) for prompt in REQUESTS]
    settings = GenerationSettings(max_new_tokens=6)
    chosen, given = (
        [a.text for a in one.answer(bench.tools(), requests, settings)]
        for one in (Astra(layer=2), Astra(layer=2, alpha=found["alpha"]))
    )
    assert chosen == given


def test_the_run_record_has_the_chosen_strength(bench: Bench, tmp_path: Path) -> None:
    chats = [Chat.ask("which door is it", REQUESTS[0].images), Chat.ask("only words")]
    through_the_adapter(bench.backbone, chats, tmp_path, defense="astra", contrast=bench.contrast, layer=2)
    (path,) = tmp_path.glob("run-*.json")
    settings = json.loads(path.read_text())["settings"]
    found = Astra(layer=2).fitted(bench.tools())
    assert (settings["alpha"], settings["fitted"]) == (found["alpha"], found["fitted"])
    assert (settings["layer"], settings["vectors"]) == (2, "text")


def write(path: Path, seed: int, keys: tuple[int, ...] = (2, 3), **changed: Any) -> dict[int, Any]:
    """A file in the authors' form: three samples, the second with two vectors."""
    generator = torch.Generator().manual_seed(seed)
    made = {
        sample: {key: [torch.randn(32, generator=generator).half() for _ in range(many)] for key in keys}
        for sample, many in enumerate((1, 2, 1))
    }
    torch.save(changed.get("instead", made), path)
    return made


def test_the_authors_files_are_averaged_over_all_vectors_of_the_key(bench: Bench, tmp_path: Path) -> None:
    steer, calibration = tmp_path / "jb.pt", tmp_path / "ref.pt"
    v, c = (
        torch.stack([one for by_key in write(path, seed).values() for one in by_key[3]]).float().mean(0)
        for path, seed in ((steer, 0), (calibration, 1))
    )
    defense = Astra(vectors=str(steer), reference=str(calibration), layer=2, alpha=2.0)
    found = defense._vectors(bench.tools())
    torch.testing.assert_close(found, (v, c))
    resolved = defense.resolved(bench.backbone)
    assert (resolved["vectors"], resolved["layer"], resolved["alpha"]) == ("jb.pt", 2, 2.0)
    assert resolved["vectors_sha256"] != resolved["reference_sha256"]
    assert defense.direction_of(bench.tools()) is None


NESTED = "{sample: {key: [vector, ...]}}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], f"is a list, not a mapping; the form is {NESTED}"),
        ({0: [torch.ones(32)]}, f"sample 0 is a list, not a mapping; the form is {NESTED}"),
        ({0: {3: torch.ones(32)}}, f"sample 0, key 3 is no list of tensors; the form is {NESTED}"),
        ({0: {3: [torch.ones(32)]}, 1: {3: [torch.ones(31)]}}, "sample 1, key 3 has a tensor of shape (31,)"),
        ({0: {3: [torch.full((32,), torch.nan)]}}, "sample 0, key 3 has a tensor with NaN or infinity"),
        ({0: {3: [torch.ones(32).cfloat()]}}, "sample 0, key 3 has a tensor of torch.complex64"),
        ({0: {3: [torch.ones(32), -torch.ones(32)]}}, "has a mean of zero at layer=2: it points nowhere"),
        ({0: {14: [torch.ones(32)], 20: []}}, "holds no vectors for layer=2 (key 3); its keys are 14, 20"),
        ({}, "its keys are none"),
    ],
)
def test_a_file_of_another_form_is_refused_with_what_was_found(
    content: Any, said: str, tmp_path: Path
) -> None:
    write(tmp_path / "good.pt", 0)
    torch.save(content, tmp_path / "other.pt")
    files = {"vectors": str(tmp_path / "other.pt"), "reference": str(tmp_path / "good.pt")}
    shape: Any = SimpleNamespace(
        layers=range(4), hidden_size=32
    )  # as the preflight sees a model without weights
    with pytest.raises(ConfigError) as error:
        Astra(**files, layer=2, alpha=1.0).resolved(shape)
    assert str(error.value).startswith(f"vectors={tmp_path}/other.pt")
    assert said in str(error.value)


class Payload:
    """Pickled, it would run code when it is read."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("/tmp/should-not-exist"),))


def test_what_would_run_code_or_is_no_file_of_torch_is_refused(tmp_path: Path) -> None:
    bytes_of = {"text.pt": b"no tensors", "empty.pt": b"", "stopped.pt": b"\x80\x02."}
    for name, content in bytes_of.items():
        (tmp_path / name).write_bytes(content)
    torch.save({0: Payload()}, tmp_path / "code.pt")
    write(tmp_path / "good.pt", 0)
    shape: Any = SimpleNamespace(layers=range(4), hidden_size=32)
    for name in (*bytes_of, "code.pt"):
        defense = Astra(vectors=str(tmp_path / name), reference=str(tmp_path / "good.pt"), layer=2, alpha=1.0)
        with pytest.raises(
            ConfigError, match=f"{name} is no file of tensors that torch reads without executing code"
        ):
            defense.resolved(shape)
    missing = Astra(
        vectors=str(tmp_path / "good.pt"), reference=str(tmp_path / "none.pt"), layer=2, alpha=1.0
    )
    with pytest.raises(ConfigError, match="reference=.*none.pt cannot be read: No such file"):
        missing.resolved(shape)


def test_files_come_together_with_a_strength_and_the_published_ones_are_named() -> None:
    with pytest.raises(ValidationError, match="are given together"):
        Astra(vectors="jb.pt", alpha=1.0)
    with pytest.raises(ValidationError, match="are given together"):
        Astra(reference="ref.pt")
    with pytest.raises(
        ValidationError, match="needs alpha=; published: Qwen2-VL-7B, .*: 7; MiniGPT-4-13B, toxicity: 5"
    ):
        Astra(vectors="jb.pt", reference="ref.pt")


def test_the_published_layers_are_the_default_ones() -> None:
    """README and scripts of ASTRAL-Group/ASTRA@54df103; number of decoder layers from the models' configurations."""
    assert [(one["model"], one["key"], one["alpha"]) for one in published()] == [
        ("Qwen2-VL-7B", 14, 7),
        ("MiniGPT-4-13B", 20, 5),
        ("MiniGPT-4-13B", 20, 7),
        ("LLaVA-1.5-13B", 20, 10),
    ]
    count = {"Qwen2-VL-7B": 28, "MiniGPT-4-13B": 40, "LLaVA-1.5-13B": 40}
    for one in published():
        shape: Any = SimpleNamespace(layers=range(count[one["model"]]), hidden_size=8)
        assert Astra().resolved(shape)["layer"] == one["key"] - 1


def test_the_last_key_of_their_files_is_no_layers_output() -> None:
    shape: Any = SimpleNamespace(layers=range(4), hidden_size=32)
    with pytest.raises(ConfigError, match="layer=3: key 4 .* is the normed state"):
        Astra(vectors="jb.pt", reference="ref.pt", layer=3, alpha=1.0).resolved(shape)


def test_what_it_needs_is_said_before_a_model_is_loaded() -> None:
    assert Astra().needed() - IN_VLLM == {"edit_decode"}
    assert Astra().needs_kv_cache
    assert not Astra(passes="prefill").needs_kv_cache
    with pytest.raises(ConfigError, match="layer=4 does not fit a model with decoder layers 0 to 3"):
        Astra(layer=4).resolved(SimpleNamespace(layers=range(4), hidden_size=8))  # type: ignore[arg-type]
