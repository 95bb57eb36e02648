"""A vision-language model that vLLM runs, behind the interface of all backbones."""

from __future__ import annotations

import hashlib
import itertools
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from shiftdc_eval.backbones.chat import Chat
from shiftdc_eval.backbones.encoding import plain
from shiftdc_eval.backbones.generation import Generated, GenerationSettings, not_finite
from shiftdc_eval.backbones.interface import IN_VLLM, EditBuilder, NextLogits, ProcessorBuilder
from shiftdc_eval.backbones.loaded_model import LoadedModel
from shiftdc_eval.backbones.vllm.edited import EditedPrompts
from shiftdc_eval.backbones.vllm.engine import Engine, Finished
from shiftdc_eval.backbones.vllm.plan import Plan
from shiftdc_eval.backbones.vllm.prompts import engine_prompt, prompt_ids
from shiftdc_eval.backbones.vllm.remote import Remote
from shiftdc_eval.backbones.vllm.steps import ROLE
from shiftdc_eval.backbones.vllm.wire import wired
from shiftdc_eval.core.errors import ConfigError, ModelError
from shiftdc_eval.steering import PREFILL, Scope

ROOM = 128
"""Tokens by which another prompt about a request may be longer than the request."""
ONE_TOKEN: dict[str, Any] = {"temperature": 0.0, "max_tokens": 1, "ignore_eos": True}
"""vLLM's settings of a request that is run for its prompt."""
SENT = "sent-"
"""What the names of vectors begin with that were sent for one call."""
UNUSED = 1024
"""Names of what the workers keep and nobody needs that may gather before they are told."""
NEVER = -100.0
"""Added to the logit of a token that an answer must not hold; the most that vLLM lets be added."""


@dataclass(frozen=True)
class _Asked:
    """A request on its way to the engine."""

    chat: Chat
    ids: list[int]
    settings: dict[str, Any]
    """vLLM's settings of decoding."""
    role: dict[str, Any]
    """What the workers do to it, see `steps`."""


class VllmBackbone(LoadedModel):
    """A model inside vLLM; several threads may ask it at a time.

    Args:
        model: the model without weights (on the meta device), for its configuration.
        processor: its processor, with a tokenizer.
        engine: a running vLLM with the same model.
        version: distribution and version of vLLM.
        dtype: what vLLM computes in.
        devices: what it computes on.
        name, revision, note, folder: as for every model.
    """

    capabilities = IN_VLLM
    engine = "vllm"
    refills = True

    def __init__(
        self,
        model: Any,
        processor: Any,
        engine: Engine,
        *,
        version: str,
        dtype: torch.dtype,
        devices: Sequence[torch.device],
        name: str,
        revision: str,
        note: str = "",
        folder: str | None = None,
    ) -> None:
        super().__init__(model, processor, name=name, revision=revision, note=note, folder=folder)
        self.vllm = engine
        self.engine_version = version
        self._dtype, self._devices = dtype, list(devices)
        self.forward_passes = 0
        """Calls of the engine, for tests and cost tables."""
        self.asked_again = 0
        """Requests answered once more because they had been preempted and gone on from stored blocks."""
        self.tokens_run: Counter[str] = Counter()
        """Prompt tokens that were `asked`, and those of them whose keys and values were `stored`."""
        self._numbers = itertools.count()
        self._unused: deque[str] = deque()
        """Names of what the workers keep and nobody needs; a tensor that is let go puts its own in, on any thread."""
        self._tokenizing = threading.Lock()
        """A tokenizer serves one thread at a time."""
        self._counting = threading.RLock()
        """Held where plans, edited prompts and counts change."""
        self._waited = threading.local()
        self._begin()

    def _begin(self) -> None:
        """What this process knows of a vLLM that has just started."""
        self._edited = EditedPrompts()
        self._plans: dict[str, Plan] = {}
        """Plans that the workers know."""
        self._unused.clear()
        ruled_out = sorted(self.placeholder_ids())
        reached = self.vllm.rpc("shiftdc_rule_out", ruled_out)
        self._bias = {} if any(reached) or not ruled_out else {"logit_bias": dict.fromkeys(ruled_out, NEVER)}
        """Of tokens that no answer may hold, where the workers' logits cannot be reached."""

    @property
    def dtype(self) -> torch.dtype:
        """Compute dtype."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Device of tensors that are returned."""
        return torch.device("cpu")

    @property
    def devices(self) -> list[torch.device]:
        """Every device that holds parameters."""
        return self._devices

    def generate(
        self,
        chats: Sequence[Chat],
        settings: GenerationSettings,
        *,
        seeds: Sequence[str] | None = None,
        edit: EditBuilder | None = None,
        scope: Scope = PREFILL,
        processors: ProcessorBuilder | None = None,
    ) -> list[Generated]:
        """Answer chats; see `Backbone`.

        Raises:
            ConfigError: sampling without seeds.
            ItemError: logits of one of the chats are not finite.
            ModelError: what vLLM cannot do, or edits that were not made as planned.
        """
        if not chats:
            return []
        if processors is not None:
            raise ModelError("engine=vllm takes no logits processors; use engine=transformers")
        decoding = self._decoding(settings, seeds, len(chats))
        roles = self._roles(len(chats), edit, scope)
        asked = [
            _Asked(chat, ids, one, role)
            for chat, ids, one, role in zip(chats, self._ids(chats), decoding, roles, strict=True)
        ]
        answers = self._run(asked)
        if not all(answer.finite for answer in answers):
            raise not_finite(self.name, self.dtype)
        with self._tokenizing:
            return [
                self.finished(answer.answer, len(answer.prompt), settings, chat.begun)
                for answer, chat in zip(answers, chats, strict=True)
            ]

    def last_token_activations(
        self,
        chats: Sequence[Chat],
        only: Sequence[int] | None = None,
        *,
        bare: bool = False,
        edit: EditBuilder | None = None,
        scope: Scope = PREFILL,
    ) -> Tensor:
        """Activations of the last prompt token, `[batch, layers, hidden]`; see `Backbone`.

        They stay in vLLM's workers, in float32, until somebody looks at them; edits of `generate` that are built from
        their rows find them there.
        """
        layers = tuple(range(len(self.layers)) if only is None else only)
        prompts = self._bare([chat.request for chat in chats]) if bare else self._ids(chats)
        roles = self._roles(len(chats), edit, scope, read=layers)
        asked = [
            _Asked(chat.without_images() if bare else chat, ids, ONE_TOKEN, role)
            for chat, ids, role in zip(chats, prompts, roles, strict=True)
        ]
        self._run(asked)
        keys = [each.role["key"] for each in asked]
        found: Any = Remote(keys, layers, self._fetch, self._unused.extend)
        return found  # type: ignore[no-any-return]  # behaves as a tensor

    def prompt_tokens(self, chats: Sequence[Chat]) -> list[tuple[int, ...]]:
        """Token ids of the chats' prompts as vLLM makes them, image tokens included."""
        roles = self._roles(len(chats), None, PREFILL)
        asked = [
            _Asked(chat, ids, ONE_TOKEN, role)
            for chat, ids, role in zip(chats, self._ids(chats), roles, strict=True)
        ]
        return [found.prompt for found in self._run(asked)]

    def final_norm(self, activations: Tensor) -> Tensor:
        """The norm between the last decoder layer and the language-model head, `[..., hidden]`.

        Raises:
            ModelError: the decoder has no such norm.
        """
        rows = torch.as_tensor(activations).float().reshape(-1, activations.shape[-1]).contiguous()
        for packed in self.vllm.rpc("shiftdc_norm", save({"rows": rows})):
            if packed:
                return load(packed)["rows"].reshape(activations.shape)
        raise ModelError(f"{self.architecture} shows no final norm inside vLLM; use engine=transformers")

    def next_token_logits(self, activations: Tensor) -> Tensor:
        """Not offered: raises `ModelError`."""
        raise ModelError("engine=vllm does not show the language-model head; use engine=transformers")

    def word_embeddings(self, words: Sequence[str]) -> Tensor:
        """Not offered: raises `ModelError`."""
        raise ModelError("engine=vllm does not show the embedding matrix; use engine=transformers")

    def follower(self, chats: Sequence[Chat]) -> NextLogits:
        """Not offered: raises `ModelError`."""
        raise ModelError("engine=vllm runs no answer after another prompt; use engine=transformers")

    def fitting_rows(self, chat: Chat, new_tokens: int) -> int | None:
        """Chats like this one whose keys and values fit into the cache, longer prompts about them included."""
        tokens = self.vllm.tokens
        return None if tokens is None else max(1, tokens // (self.features([chat]).width + ROOM + new_tokens))

    def release(self) -> None:
        """Free what the workers keep and nobody needs."""
        if names := self._let_go():
            self.vllm.rpc("shiftdc_free", names)

    def _let_go(self) -> list[str]:
        names = []
        with suppress(IndexError):  # other threads take some too
            while True:
                names.append(self._unused.pop())
        return names

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Leave the accelerator's memory to another model while the context lasts: vLLM ends, and starts anew."""
        if self._devices[0].type != "cuda":
            yield
            return
        self.vllm.close()
        try:
            yield
        finally:
            self.vllm = self.vllm.again()
            self._begin()

    def _ids(self, chats: Sequence[Chat]) -> list[list[int]]:
        with self._tokenizing:
            self.check_begun(chats)
            return prompt_ids(self.processor, self.tokenizer, chats, self._control)

    def _bare(self, texts: Sequence[str]) -> list[list[int]]:
        with self._tokenizing:
            ids: list[list[int]] = self.tokenizer([plain(text, self._control) for text in texts])["input_ids"]
            return ids

    def _decoding(
        self, settings: GenerationSettings, seeds: Sequence[str] | None, rows: int
    ) -> list[dict[str, Any]]:
        """vLLM's settings, one a request."""
        shared: dict[str, Any] = {
            "max_tokens": settings.max_new_tokens,
            "temperature": 0.0,
            "stop_token_ids": sorted(self.ends(settings)),
            "ignore_eos": True,
            "logprobs": 0,  # of the chosen token alone: NaN where the logits are not finite
            **self._bias,
        }
        if not settings.do_sample:
            return [shared] * rows
        if seeds is None:
            raise ConfigError(
                "sampling needs one seed a request: pass seeds=[request.seed for request in requests]"
            )
        if self._dtype == torch.float32:
            raise ConfigError(
                "engine=vllm draws other samples than transformers does, and in float32 their answers would be taken "
                "for the same; use engine=transformers, or dtype=bfloat16"
            )
        drawn = {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
        return [{**shared, **drawn, "seed": _number(seed)} for seed in seeds]

    def _roles(
        self, rows: int, edit: EditBuilder | None, scope: Scope, read: tuple[int, ...] | None = None
    ) -> list[dict[str, Any]]:
        """What the workers do to each request; plans and vectors that they lack are sent."""
        keys = [str(next(self._numbers)) for _ in range(rows)]
        reading = {} if read is None else {"read": True}
        if edit is None:
            plan = {} if read is None else {"plan": self._known(Plan("none", read))}
            return [{"key": key, **plan, **reading} for key in keys]
        if scope != PREFILL:
            raise ModelError(
                "engine=vllm edits the last prompt token in prefill, at the output of layers, and nothing else; "
                "use engine=transformers"
            )
        made = wired(edit(list(range(rows))), rows)
        if read and set(read) - set(made.plan.layers):
            raise ModelError(
                "engine=vllm reads edited runs at the edited layers alone; use engine=transformers"
            )
        stored = made.stored
        if made.vectors is not None:
            stored = [f"{SENT}{key}" for key in keys]
            packed = save({"vectors": made.vectors.contiguous()})
            self.vllm.rpc("shiftdc_put", stored, list(made.plan.layers), packed)
        name = self._known(made.plan)
        own = [{}] * rows if stored is None else [{"stored": one} for one in stored]
        return [{"key": key, "plan": name, **mine, **reading} for key, mine in zip(keys, own, strict=True)]

    def _known(self, plan: Plan) -> str:
        """Name under which the workers know a plan."""
        name = plan.name
        with self._counting:
            if name not in self._plans:
                self.vllm.rpc("shiftdc_plan", name, plan.packed())
                self._plans[name] = plan
        return name

    def _run(self, asked: Sequence[_Asked]) -> list[Finished]:
        """Let the engine answer, and check that every edit was made."""
        edited: dict[str, tuple[int, ...]] = {}
        with self._counting:
            self.forward_passes += 1
            for each in asked:
                plan = self._plans[each.role["plan"]] if "plan" in each.role else None
                if plan is not None and plan.kind != "none":
                    edited[each.role["key"]] = plan.layers
                    self._edited.add(each.ids)
            salts = [self._edited.salt(each.ids) for each in asked]
        if len(self._unused) > UNUSED:
            self.release()
        found = self._ask(asked, salts)
        # blocks that others made behind an edited prompt can be found after a preemption
        with self._counting:
            doubtful = [each for each in asked if each.ids in self._edited]
        restored = self._check(doubtful, edited) if doubtful else set()
        again = [at for at, each in enumerate(asked) if each.role["key"] in restored]
        if again:
            few = [asked[at] for at in again]
            salts = [f"again-{next(self._numbers)}" for _ in few]  # once more, where no blocks can be found
            for at, one in zip(again, self._ask(few, salts), strict=True):
                found[at] = one
            self._check(few, {key: layers for key, layers in edited.items() if key in restored})
            with self._counting:
                self.asked_again += len(again)
        with self._counting:
            self.tokens_run["asked"] += sum(len(one.prompt) for one in found)
            self.tokens_run["stored"] += sum(one.stored for one in found)
            for layers in edited.values():
                self.edits_made.update(layers)
        self._unused.extend(name for each in asked if (name := each.role.get("stored", "")).startswith(SENT))
        return found

    @property
    def reused_seconds(self) -> float:
        """Added to the clock: minus the seconds in which vLLM worked for other threads while this one waited."""
        return float(getattr(self._waited, "seconds", 0.0))

    def _ask(self, asked: Sequence[_Asked], salts: Sequence[str | None]) -> list[Finished]:
        begun = time.perf_counter()
        found = self.vllm.answer(
            [engine_prompt(each.ids, each.chat, salt) for each, salt in zip(asked, salts, strict=True)],
            [self.vllm.params(**each.settings, extra_args={ROLE: each.role}) for each in asked],
        )
        own = sum(one.seconds for one in found)
        self._waited.seconds = self.reused_seconds - (time.perf_counter() - begun - own)
        return found

    def _check(self, asked: Sequence[_Asked], edited: Mapping[str, Sequence[int]]) -> set[str]:
        """Compare the edits made with those planned; the requests that may have found another's blocks.

        Raises:
            ModelError: they differ.
        """
        restored: set[str] = set()
        keys = [each.role["key"] for each in asked]
        for report in map(json.loads, self.vllm.rpc("shiftdc_report", keys, self._let_go())):
            restored |= set(report["restored"])
            here = set(report["layers"])
            for key, layers in edited.items():
                passes = report["passes"].get(key, 0)
                made = {int(layer): count for layer, count in report["made"].get(key, {}).items()}
                planned = {layer: passes for layer in layers if layer in here}
                if here & set(layers) and (not passes or made != planned):
                    raise ModelError(
                        f"engine=vllm made {sum(made.values())} edits of a request for which "
                        f"{len(planned)} layers in {passes} passes were planned: its answers are not the "
                        "defense's; use engine=transformers"
                    )
        return restored

    def _fetch(self, keys: Sequence[str], layers: Sequence[int]) -> Tensor:
        """Bring activations home: `[requests, layers, hidden]`."""
        found: dict[int, Tensor] = {}
        for packed in self.vllm.rpc("shiftdc_take", list(keys)):
            found |= {int(layer): rows for layer, rows in (load(packed) if packed else {}).items()}
        return torch.stack([found[layer] for layer in layers], dim=1).to(self._dtype)


def _number(seed: str) -> int:
    return int.from_bytes(hashlib.sha256(seed.encode()).digest()[:7], "big")
