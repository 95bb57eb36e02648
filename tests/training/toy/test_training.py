"""The training code: rows as the real processor makes them, a loss equal to the real model's."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from shiftdc_eval.tasks.toy.world import drawing
from shiftdc_eval.tasks.toy.world.vocabulary import OBJECTS, WEAPONS
from training.toy import contrast, pools, train
from training.toy.corpus import Mixture, picture_example, text_example
from training.toy.model import chat, messages
from training.toy.train import Recipe, Trainer

SETTINGS = (
    *("pictures=40", "texts=60", "tower_steps=2", "reading_steps=2", "base_steps=2", "aligned_steps=2"),
    *(
        "projector_steps=2",
        "joint_steps=2",
        "tower_batch=4",
        "picture_batch=4",
        "text_batch=2",
        "text_only_batch=4",
    ),
)


@pytest.fixture(scope="module")
def trainer() -> Trainer:
    return Trainer(train.changed(Recipe(), list(SETTINGS)), 0, "cpu", 1)


def test_the_fast_prompt_writer_agrees_with_the_chat_template(trainer: Trainer) -> None:
    rng = random.Random(0)
    examples = [text_example(rng, Mixture(), aligned=True) for _ in range(100)] + trainer.pool.examples
    assert any(e.earlier for e in examples)
    assert any(e.system for e in examples)
    for example in examples:
        written = trainer.processor.apply_chat_template(
            messages(example), add_generation_prompt=True, tokenize=False
        )
        assert written == chat(example)


def test_a_row_holds_what_the_processor_gives(trainer: Trainer) -> None:
    for i, example in enumerate(trainer.pool.examples[:5]):
        assert example.picture is not None
        image = drawing.render(example.picture)
        given = trainer.processor(text=[chat(example)], images=[image], return_tensors="pt")
        prompt = given["input_ids"][0]
        assert trainer.picture.ids[i, : len(prompt)].tolist() == prompt.tolist()
        assert trainer.picture.positions[i, 0] == len(prompt) - 1
        pixels = trainer.pixels[i].float() / 127.5 - 1
        torch.testing.assert_close(given["pixel_values"][0], pixels, atol=1e-5, rtol=0)


def test_the_loss_is_that_of_the_real_model(trainer: Trainer) -> None:
    index = torch.arange(6)
    rows = trainer.picture
    labels = torch.full_like(rows.ids[index], -100)
    for i in range(len(index)):
        for position, token in zip(rows.positions[i], rows.targets[i], strict=True):
            if token != -100:
                labels[i, position + 1] = token
    pixels = trainer.pixels[index].float() / 127.5 - 1
    mask = (rows.ids[index] != trainer.tokenizer.pad_token_id).long()
    with torch.no_grad():
        seen = trainer.model.model.multi_modal_projector(trainer._patches(index))
        ours = trainer.answer_loss(rows, index, seen)
        real = trainer.model(
            input_ids=rows.ids[index], pixel_values=pixels, attention_mask=mask, labels=labels
        )
    torch.testing.assert_close(ours, real.loss, atol=1e-4, rtol=0)


def test_a_named_patch_is_the_embedding_of_what_lies_in_it(trainer: Trainer) -> None:
    named = trainer.named_patches()(torch.arange(3))
    table = trainer.model.get_input_embeddings().weight.detach()

    def embedding(label: str) -> torch.Tensor:
        name = pools.token_name(label)
        token = trainer.tokenizer(name, add_special_tokens=False)["input_ids"][0] if name else None
        return torch.zeros(table.shape[1]) if token is None else table[token]

    for picture in range(3):
        for patch in range(64):
            what = pools.WHAT[trainer.pool.what[picture, patch]]
            colour = pools.COLOUR[trainer.pool.colour[picture, patch]]
            torch.testing.assert_close(named[picture, patch], embedding(what) + embedding(colour))


def test_a_word_is_labelled_where_it_lies(trainer: Trainer) -> None:
    marks = [drawing.Mark("kite", None, (18, 34, 62, 46)), drawing.Mark("lock", "red", (96, 96, 128, 128))]
    what, colour = (labels.reshape(8, 8) for labels in pools.patch_labels(marks))
    assert pools.WHAT[what[2, 2]] == "kite"
    assert pools.WHAT[what[7, 7]] == "drawn lock"
    assert pools.COLOUR[colour[7, 7]] == "red"
    assert pools.WHAT[what[0, 0]] == "nothing"


def test_every_label_is_one_token_of_the_language_model() -> None:
    recipe = train.changed(Recipe(), ["pictures=1500", "texts=3000"])
    examples = pools.text_pool(recipe.texts, 0, recipe.mixture, aligned=True)
    rng = random.Random(1)
    examples += [picture_example(rng, recipe.mixture) for _ in range(recipe.pictures)]
    tokenizer = train.build_tokenizer(f"{chat(e)} {e.answer}" for e in examples)
    for name in (n for n in pools.WHAT + pools.COLOUR if pools.token_name(n) and not n.endswith(".")):
        assert len(tokenizer(pools.token_name(name), add_special_tokens=False)["input_ids"]) == 1, name


def test_pools_do_not_depend_on_the_number_of_workers() -> None:
    alone, shared = (pools.picture_pool(30, 5, Mixture(), workers) for workers in (1, 2))
    assert (alone.pixels == shared.pixels).all()
    assert alone.examples == shared.examples


def test_contrast_pairs_are_matched_and_from_the_training_split() -> None:
    found = contrast.pairs(160)
    assert len({(p["safe"], p["unsafe"], p["caption"]) for p in found}) > 150
    for pair in found:
        safe, unsafe = pair["safe"].split(), pair["unsafe"].split()
        assert sum(a != b for a, b in zip(safe, unsafe, strict=True)) == 1
        words = set(pair["caption"].split())
        assert not words & set(WEAPONS)
        assert words & set(OBJECTS)


def test_a_setting_reaches_the_recipe_or_its_mixture() -> None:
    recipe = train.changed(Recipe(), ["joint_steps=7", "picture_request=0.5"])
    assert (recipe.joint_steps, recipe.mixture.picture_request) == (7, 0.5)


@pytest.mark.slow
def test_training_writes_a_folder_that_loads(tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    train.train(tmp_path, 0, "cpu", train.changed(Recipe(), list(SETTINGS)), 1)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert type(AutoProcessor.from_pretrained(tmp_path)).__name__ == "LlavaProcessor"
    assert (tmp_path / "training_log.json").is_file()
