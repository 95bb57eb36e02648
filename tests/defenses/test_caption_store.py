"""Stored answers are found again for the same question to the same model alone, and their seconds on the same hardware."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from instant_backbone import Model
from PIL import Image

from shiftdc_eval.backbones import Backbone, Chat, GenerationSettings
from shiftdc_eval.defenses.caption_store import CaptionStore

BLUE, RED = (Image.new("RGB", (8, 8), colour) for colour in ("blue", "red"))
CHAT = Chat.ask("say", [BLUE])
SETTINGS = GenerationSettings(max_new_tokens=4)


def asked(
    store: CaptionStore, model: Model, chat: Chat = CHAT, settings: GenerationSettings = SETTINGS
) -> int:
    """Answers that had to be made."""
    before = store.made
    store.answers(cast(Backbone, model), [chat], settings)
    return store.made - before


@pytest.mark.parametrize(
    "change",
    [
        {"revision": "2"},
        {"template_sha256": "u"},
        {"dtype": torch.float16},
        {"attention": "eager"},
    ],
)
def test_another_model_answers_for_itself(change: dict[str, Any]) -> None:
    store = CaptionStore(None)
    assert [asked(store, model) for model in (Model(), replace(Model(), **change), Model())] == [1, 1, 0]


@pytest.mark.parametrize(("dtype", "made"), [(torch.float32, 0), (torch.bfloat16, 1)])
def test_another_engine_answers_for_itself_where_it_rounds_otherwise(dtype: torch.dtype, made: int) -> None:
    store = CaptionStore(None)
    asked(store, Model(dtype=dtype))
    assert asked(store, Model(dtype=dtype, engine="vllm")) == made


@pytest.mark.parametrize(
    ("chat", "settings"),
    [
        (Chat.ask("say it", [BLUE]), SETTINGS),
        (Chat.ask("say", [RED]), SETTINGS),
        (Chat.ask("say"), SETTINGS),
        (Chat.ask("say", [BLUE], system="be brief"), SETTINGS),
        (CHAT, GenerationSettings(max_new_tokens=5)),
        (CHAT, GenerationSettings(max_new_tokens=4, until=("x",))),
    ],
)
def test_another_question_is_asked_anew(chat: Chat, settings: GenerationSettings) -> None:
    store = CaptionStore(None)
    asked(store, Model())
    assert asked(store, Model(), chat, settings) == 1


def test_seconds_of_other_hardware_are_not_told(tmp_path: Path) -> None:
    told = []
    for hardware in ("here", "here", "elsewhere"):
        store = CaptionStore(tmp_path / "captions.sqlite")
        asked(store, Model(hardware=hardware))
        told.append((store.made, store.reused_seconds > 0, store.untimed))
    assert told == [(1, False, 0), (0, True, 0), (0, False, 1)]
