"""Activations and captions that the cells of a sweep share: computed once, then looked up.

A defense measures last-token activations through `backbone.last_token_activations`. `Remembering` wraps
the backbone: it asks the model once for each prompt, at every layer, and serves the other cells from files.
A greedy answer that ended by itself serves every longer length limit too, so captions of several limits are made
once where they fit the shortest.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from shiftdc_eval.backbones import Backbone, Chat, Generated, GenerationSettings
from shiftdc_eval.backbones.interface import EditBuilder, Wrapper
from shiftdc_eval.core.files import make_folder, writing
from shiftdc_eval.steering import PREFILL, Scope, hooked

VERSION = 2
"""Raised by hand when what is stored changes its meaning."""
REMEMBERED = 100_000
"""Answers that are kept in memory."""


class ActivationStore:
    """Folder of last-token activations: one file `[layers, hidden]` a prompt, in the model's own dtype."""

    def __init__(self, folder: Path) -> None:
        self.made = 0
        """Prompts that the model was asked for."""
        self.reused = 0
        """Prompts found."""
        self._folder = folder

    def get(self, keys: Iterable[str]) -> dict[str, tuple[Tensor, float]]:
        """The stored activations of some prompts, and the seconds that each took."""
        found = {}
        for key in set(keys):
            path = self._path(key)
            if not path.is_file():
                continue
            try:
                with safe_open(path, framework="pt") as file:
                    found[key] = file.get_tensor("x"), float(file.metadata()["seconds"])
            except SafetensorError:  # torn by a power failure: made again
                continue
        return found

    def put(self, found: Mapping[str, Tensor], seconds: float) -> None:
        """Store activations; `seconds` is what each took."""
        make_folder(self._folder)
        for key, tensor in found.items():
            # several processes may fill one store; not synced, since what is torn is made again
            temporary = self._folder / f".{key}.{secrets.token_hex(4)}"
            with writing(temporary):
                temporary.write_bytes(save({"x": tensor.contiguous().cpu()}, {"seconds": repr(seconds)}))
                temporary.replace(self._path(key))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


class Remembering(Wrapper):
    """A backbone that computes no activation and no caption twice.

    Args:
        backbone: the model; whatever is not named here is its own.
        store: where activations are kept.
    """

    def __init__(self, backbone: Backbone, store: ActivationStore) -> None:
        super().__init__(backbone)
        self._store = store
        self._answers: dict[str, tuple[Generated, float]] = {}
        self.reused_seconds = 0.0
        """Seconds that the reused activations and answers originally took: a cost table counts them."""

    def _keys(self, chats: Sequence[Chat], *rest: Any) -> list[str]:
        """Everything that can change what is found, or how long it takes: hardware and engine do both."""
        backbone = self.inner
        model = [
            VERSION,
            backbone.revision,
            backbone.template_sha256,
            str(backbone.dtype),
            backbone.attention,
            backbone.engine,
            backbone.hardware,
        ]
        texts = (json.dumps([model, chat.key(), *rest], sort_keys=True) for chat in chats)
        return [hashlib.sha256(text.encode()).hexdigest() for text in texts]

    def last_token_activations(
        self,
        chats: Sequence[Chat],
        only: Sequence[int] | None = None,
        *,
        bare: bool = False,
        edit: EditBuilder | None = None,
        scope: Scope = PREFILL,
    ) -> Tensor:
        """As `Backbone.last_token_activations`; the model is asked for what is not stored, at all layers.

        Under edits or hooks (a refusal direction being ablated) nothing is looked up or stored.
        """
        if edit is not None or hooked(self.inner.layers):
            return self.inner.last_token_activations(chats, only, bare=bare, edit=edit, scope=scope)
        keys = self._keys(chats, bare)
        stored = self._store.get(keys)
        found = {key: tensor for key, (tensor, _) in stored.items()}
        self.reused_seconds += sum(stored[key][1] for key in keys if key in stored)
        missing = {key: chat for key, chat in zip(keys, chats, strict=True) if key not in found}
        self._store.reused += len(keys) - len(missing)
        if missing:
            begun = time.perf_counter()
            made = self.inner.last_token_activations(list(missing.values()), bare=bare)
            fresh = dict(zip(missing, made.unbind(), strict=True))
            self._store.put(fresh, (time.perf_counter() - begun) / len(missing))
            self._store.made += len(missing)
            found |= fresh
        device = self.inner.device
        every = torch.stack([found[key].to(device) for key in keys])
        return every if only is None else every[:, list(only)]

    def generate(self, chats: Sequence[Chat], settings: GenerationSettings, **rest: Any) -> list[Generated]:
        """As `Backbone.generate`; greedy answers without edits are found again under longer limits."""
        if settings.do_sample or rest.get("edit") or rest.get("processors"):
            return self.inner.generate(chats, settings, **rest)
        # the limit is left out of the key: an answer that ended within a shorter one is the answer
        keys = self._keys(chats, replace(settings, max_new_tokens=1).key())
        limit = settings.max_new_tokens
        stored = {key: self._answers[key] for key in keys if key in self._answers}
        found = {key: answer for key, (answer, _) in stored.items() if answer.tokens_out <= limit}
        self.reused_seconds += sum(stored[key][1] for key in keys if key in found)
        missing = {key: chat for key, chat in zip(keys, chats, strict=True) if key not in found}
        if missing:
            rest.pop("seeds", None)  # nothing is drawn
            begun = time.perf_counter()
            made = self.inner.generate(list(missing.values()), settings, **rest)
            seconds = (time.perf_counter() - begun) / len(missing)
            fresh = dict(zip(missing, made, strict=True))
            if len(self._answers) + len(fresh) <= REMEMBERED:
                ended = {key: answer for key, answer in fresh.items() if answer.tokens_out < limit}
                self._answers |= {key: (answer, seconds) for key, answer in ended.items()}
            found |= fresh
        return [found[key] for key in keys]
