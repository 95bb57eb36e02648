"""What is shipped fits together: the real base is readable, and the delta is small and made for it."""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

import training.smol
from shiftdc_eval.backbones.bundled import smol_base as base
from shiftdc_eval.backbones.bundled import smol_config as model
from shiftdc_eval.backbones.bundled.smol_delta import load_delta, pairs
from shiftdc_eval.backbones.bundled.smol_merge import DELTA, read_base, revision_of, tower_size
from shiftdc_eval.core.hashing import file_sha256
from training.smol.measure import fill

LARGEST = 32_000_000
needs_base = pytest.mark.skipif(
    find_spec(base.PACKAGE) is None or find_spec("gguf") is None,
    reason="the real base is not installed: make smol",
)


@needs_base
@pytest.mark.slow
def test_the_real_base_is_what_the_model_is_built_around() -> None:
    path = base.base_file()
    language, tokenizer = read_base(path)
    own = model.build_tokenizer(tokenizer)
    config = model.build_config(language.config, own)
    assert (config.text_config.hidden_size, config.text_config.num_hidden_layers) == (576, 30)
    assert own.encode(model.IMAGE_TOKEN) == [config.image_token_index]
    assert own.encode("<|im_end|>") == [config.eos_token_id]
    assert language.get_input_embeddings().weight is language.get_output_embeddings().weight


def test_the_shipped_delta_is_small_whole_and_made_for_this_base() -> None:
    assert DELTA.stat().st_size < LARGEST
    delta = load_delta(DELTA)
    assert delta.metadata["base_sha256"] == base.SHA256
    assert len(pairs(delta.state)) == 30 * 7
    width, layers = tower_size(delta.state)
    assert width % 64 == 0
    assert layers >= 1


def test_the_log_of_its_training_is_the_one_whose_hash_it_holds() -> None:
    log = DELTA.with_name("training.json")
    assert load_delta(DELTA).metadata["training_log_sha256"] == file_sha256(log)


def test_the_card_shows_what_was_measured_of_this_delta(tmp_path: Path) -> None:
    files = sorted((Path(training.smol.__file__).parent / "measured").glob("*.json"))
    card = DELTA.with_name("README.md")
    shutil.copy(card, tmp_path)
    fill(tmp_path / card.name, files)
    assert (tmp_path / card.name).read_text("utf-8") == card.read_text("utf-8")
    revisions = {json.loads(path.read_text("utf-8"))["revision"] for path in files}
    assert revision_of(load_delta(DELTA)) in revisions
