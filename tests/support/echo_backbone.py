"""A backbone that computes nothing: it answers every chat with the same words and notes what it was asked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from shiftdc_eval.backbones import Chat, Generated, GenerationSettings
from shiftdc_eval.backbones.interface import EVERYTHING


class EchoBackbone:
    """Answers `Echo: <request>`; every question is appended to `asked`, a file that outlives the process."""

    capabilities = EVERYTHING
    name = "echo"
    revision = "r" * 40
    note = "toy"
    architecture = "Echo"
    template_sha256 = "0" * 64
    dtype = torch.float32
    attention = "sdpa"
    engine = "transformers"
    hardware = "nothing"
    device = torch.device("cpu")
    devices = (torch.device("cpu"),)
    context = None
    refills = False
    layers: Sequence[Any] = ()
    hidden_size = 1
    contrast_file = None

    def __init__(self, asked: Path) -> None:
        self._asked = asked
        self.edits_made: Counter[str] = Counter()

    def generate(self, chats: Sequence[Chat], settings: GenerationSettings, **_: Any) -> list[Generated]:
        file = os.open(self._asked, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(file, "".join(f"{chat.request!r}\n" for chat in chats).encode())
        os.close(file)
        return [Generated(f"Echo: {chat.request}", 3, 2, (1, 2)) for chat in chats]

    def fitting_rows(self, chat: Chat, tokens: int) -> int | None:
        return None

    def release(self) -> None: ...


def questions(asked: Path) -> list[str]:
    """What was asked, in order."""
    return asked.read_text(encoding="utf-8").splitlines() if asked.exists() else []
