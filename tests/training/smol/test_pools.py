"""Rows of training: every target is predicted from the token before it, every named token lies where it is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_corpus

from shiftdc_eval.backbones.bundled.smol_config import (
    CHAT_TEMPLATE,
    IMAGE_TOKEN,
    IMAGE_TOKENS,
    build_tokenizer,
)
from training.smol.corpus import pools
from training.smol.corpus.drawing import FIRST


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and its tokenizer, as a training run leaves them."""
    from tiny_base import SPECIAL
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    out = tmp_path_factory.mktemp("run")
    tokens, merges = tiny_corpus.word_tokens()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(m.split(" ")) for m in merges]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    build_tokenizer(PreTrainedTokenizerFast(tokenizer_object=made)).save_pretrained(out)
    tiny_corpus.stored().write(out / "corpus.json")
    tiny_corpus.fonts(out / "fonts")
    return out


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", list(pools.SHAPES))
def test_each_target_follows_the_token_it_is_predicted_from(folder: Path, tokenizer: Any, kind: str) -> None:
    rows = pools.make_rows(str(folder), str(folder / "fonts"), kind, seed=3, count=20)
    for ids, positions, targets in zip(rows.ids, rows.positions, rows.targets, strict=True):
        count = int((targets >= 0).sum())
        assert count > 1
        assert (targets[count:] == -100).all()
        assert targets[count - 1] == tokenizer.eos_token_id
        assert [ids[p + 1] for p in positions[:count]] == list(targets[:count])
        prompt = tokenizer.decode(ids[: positions[0] + 1])
        assert prompt.endswith("<|im_start|>assistant\n")
        assert (ids[positions[0] + 1 + count :] == tokenizer.pad_token_id).all()


@pytest.mark.parametrize("kind", list(pools.SHAPES))
def test_prompts_are_what_the_chat_template_writes(folder: Path, tokenizer: Any, kind: str) -> None:
    import random

    corpus, _ = pools._workshop(str(folder), str(folder / "fonts"))
    made = pools.examples(corpus, kind, random.Random(8))
    seen = [next(made) for _ in range(200)]
    assert any(e.system for e in seen) or kind == "pair"
    assert any(e.earlier for e in seen) or kind == "pair"
    for example in seen:
        messages: list[dict[str, Any]] = []
        if example.system:
            messages.append({"role": "system", "content": example.system})
        for user, assistant in example.earlier:
            messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        content = [{"type": "image"} for _ in example.pictures] + [{"type": "text", "text": example.prompt}]
        messages.append({"role": "user", "content": content})
        written = tokenizer.apply_chat_template(
            messages, chat_template=CHAT_TEMPLATE, tokenize=False, add_generation_prompt=True
        )
        assert pools.prompt_text(example) == written


@pytest.mark.parametrize(("kind", "images"), [("caption", 1), ("pair", 2), ("text", 0)])
def test_each_image_is_256_image_tokens(folder: Path, tokenizer: Any, kind: str, images: int) -> None:
    rows = pools.make_rows(str(folder), str(folder / "fonts"), kind, seed=4, count=5)
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    assert ((rows.ids == image).sum(axis=1) == images * IMAGE_TOKENS).all()
    assert rows.pixels.shape[:2] == ((5 if images else 0), images)
    for pixels in rows.pixels:
        assert all((one < 128).any() and (one > 128).any() for one in pixels)


def test_a_named_token_ends_in_its_patch(folder: Path, tokenizer: Any) -> None:
    rows = pools.make_rows(str(folder), str(folder / "fonts"), "caption", seed=5, count=30)
    named = 0
    for row in range(30):
        for place, token in zip(rows.token_places[row], rows.tokens[row], strict=True):
            if place >= 0:
                last = tokenizer.decode([token])[-1]
                assert ord(last) - FIRST + 1 in rows.characters[row, place]
                named += 1
        shown = tokenizer.decode([t for t in rows.targets[row] if t >= 0]).split('"')[1]
        told = tokenizer.decode(rows.tokens[row][rows.token_places[row] >= 0])
        assert told.replace(" ", "").strip('"') in shown.replace(" ", "")
    assert named > 100


def test_the_same_seed_makes_the_same_rows(folder: Path) -> None:
    first, second = (
        pools.arrays(pools.make_rows(str(folder), str(folder / "fonts"), "answer", seed=6, count=4))
        for _ in range(2)
    )
    assert all((first[name] == second[name]).all() for name in first)


def test_what_a_worker_raises_is_raised_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pool:
        def imap_unordered(self, *_: Any) -> Any:
            raise OSError("no space left")

        def close(self) -> None: ...

        def terminate(self) -> None: ...

    class Context:
        def Pool(self, _: int) -> Pool:
            return Pool()

    monkeypatch.setattr(pools.multiprocessing, "get_context", lambda _: Context())
    supply = pools.Supply(folder, folder / "fonts", {"text": 5}, 0, 1)
    with pytest.raises(OSError, match="no space left"):
        supply.take(wait=True)
    supply.close()
