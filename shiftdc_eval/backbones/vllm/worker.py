"""Methods of vLLM's workers: hooks on decoder layers that read and edit the last prompt token in prefill.

`vllm` puts this class under its own worker class (`worker_extension_cls`). A decoder layer of vLLM returns
`(hidden, residual)`; the residual stream is their sum, and a correction goes into `hidden`. Both are whole on every
rank under tensor parallelism, so every rank makes the same edit from the same numbers; under pipeline parallelism
each stage keeps what belongs to its own layers.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from shiftdc_eval.backbones.vllm.plan import Plan
from shiftdc_eval.backbones.vllm.steps import Steps


class _Rows:
    """Last prompt tokens of a step that share a plan."""

    def __init__(self, plan: Plan, rows: Tensor, roles: Sequence[Mapping[str, Any]]) -> None:
        self.plan, self.rows, self.roles = plan, rows, roles
        self.keys = [str(role["key"]) for role in roles]
        self.stored: Tensor | None = None
        """`[rows, layers, hidden]`: what each request brings."""
        self.seen: dict[int, Tensor] = {}
        """Layer -> `[rows, hidden]`, where the step's activations are wanted."""


class Steering:
    """Reads and edits inside one worker."""

    def __init__(self, worker: Any) -> None:
        self.runner = worker.model_runner
        self.steps = Steps()
        self.plans: dict[str, Plan] = {}
        self.kept: dict[str, dict[int, Tensor]] = {}
        """Key -> layer -> `[hidden]`, float32: activations that were read, and vectors that were sent."""
        self.passes: defaultdict[str, int] = defaultdict(int)
        """Key -> how often the last prompt token of an edited request was computed."""
        self.made: defaultdict[str, defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
        """Key -> layer -> edits."""
        self.ruled_out: Tensor | None = None
        """Token ids that no answer may hold."""
        self._groups: list[_Rows] | None = None
        self._running = False
        self._order: list[str] = []
        model = self.runner.model
        language = model.get_language_model() if hasattr(model, "get_language_model") else model
        self.decoder = getattr(language, "model", language)
        self.layers = {
            at: layer
            for at, layer in enumerate(self.decoder.layers)
            if type(layer).__name__ != "PPMissingLayer"
        }
        self.device = next(model.parameters()).device
        for at, layer in self.layers.items():
            layer.register_forward_hook(self._hook(at))
        self.heads = [module for module in model.modules() if type(module).__name__ == "LogitsProcessor"]
        for head in self.heads:
            head.register_forward_hook(self._rule_out)
        self._follow(worker)

    def _rule_out(self, _module: Any, _args: Any, logits: Tensor | None) -> None:
        # under tensor parallelism the logits of the other ranks may be nowhere
        if logits is not None and self.ruled_out is not None:
            logits.index_fill_(-1, self.ruled_out, -math.inf)

    def _follow(self, worker: Any) -> None:
        """Learn of every step, and of the order in which the runner puts requests."""
        execute = worker.execute_model

        def followed(scheduled: Any, *args: Any, **kwargs: Any) -> Any:
            self.steps.begin(scheduled)
            self._groups, self._running = None, True
            try:
                with _no_graphs(self.runner) if self.steps.planned() else nullcontext():
                    return execute(scheduled, *args, **kwargs)
            finally:
                self._keep()
                self._running = False

        worker.execute_model = followed
        if hasattr(self.runner, "input_batch"):  # the first generation of vLLM's runner, and the CPU's
            return
        prepare = self.runner.prepare_inputs

        def prepared(*args: Any, **kwargs: Any) -> Any:
            batch = prepare(*args, **kwargs)
            self._order = list(batch.req_ids)
            return batch

        self.runner.prepare_inputs = prepared

    def _requests(self) -> list[str]:
        batch = getattr(self.runner, "input_batch", None)
        return self._order if batch is None else list(batch.req_ids[: batch.num_reqs])

    def _planned(self) -> list[_Rows]:
        """The step's last prompt tokens, grouped by what is done to them."""
        found: defaultdict[str, list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
        for row, role in self.steps.last_tokens(self._requests()):
            found[role["plan"]].append((row, role))
        groups = []
        for name, members in found.items():
            plan = self.plans[name]
            group = _Rows(
                plan, torch.tensor([row for row, _ in members], device=self.device), [r for _, r in members]
            )
            if plan.kind != "none":
                for key in group.keys:
                    self.passes[key] += 1
            own = [at for at in plan.layers if at in self.layers]
            if own and all(role.get("stored") for role in group.roles):
                group.stored = torch.stack(
                    [torch.stack([self.kept[role["stored"]][at] for at in own]) for role in group.roles]
                )
            groups.append(group)
        return groups

    def _hook(self, layer: int) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            if not self._running or (self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()):
                return
            if self._groups is None:
                self._groups = self._planned()
            for group in self._groups:
                if layer in group.plan.layers:
                    self._reach(group, layer, output)

        return hook

    def _reach(self, group: _Rows, layer: int, output: Any) -> None:
        hidden, residual = output if isinstance(output, tuple) else (output, None)
        stream = _stream(hidden, residual, group.rows)
        plan = group.plan
        if plan.kind != "none":
            own = [at for at in plan.layers if at in self.layers]
            stored = None if group.stored is None else group.stored[:, own.index(layer)]
            edited = plan.edit(plan.layers.index(layer), stored)(stream)
            hidden[group.rows] = (hidden[group.rows].float() + (edited - stream)).to(hidden.dtype)
            stream = _stream(hidden, residual, group.rows)  # what the edit left after rounding
            for key in group.keys:
                self.made[key][layer] += 1
        if any(role.get("read") for role in group.roles):
            group.seen[layer] = stream

    def _keep(self) -> None:
        """Keep what was read in the step that has ended."""
        for group in self._groups or ():
            for at, role in enumerate(group.roles):
                if role.get("read") and group.seen:
                    self.kept[str(role["key"])] = {layer: seen[at] for layer, seen in group.seen.items()}


@contextmanager
def _no_graphs(runner: Any) -> Iterator[None]:
    """Run a step in Python.

    A prompt of which one token is left to compute (the rest is stored, or was in an earlier chunk) looks like
    decoding to vLLM, whose captured graph would run no hook. These are the switches that its own runners leave off
    until their graphs are captured, of the first generation and the second.
    """
    switches = (("cudagraph_dispatcher", "keys_initialized"), ("cudagraph_manager", "_graphs_captured"))
    found = [(holder, name) for at, name in switches if (holder := getattr(runner, at, None)) is not None]
    before = [getattr(holder, name) for holder, name in found]
    for holder, name in found:
        setattr(holder, name, False)
    try:
        yield
    finally:
        for (holder, name), value in zip(found, before, strict=True):
            setattr(holder, name, value)


def _stream(hidden: Tensor, residual: Tensor | None, rows: Tensor) -> Tensor:
    """The residual stream of some rows, float32: a layer of vLLM hands it on in two parts, or whole."""
    return hidden[rows].float() if residual is None else hidden[rows].float() + residual[rows].float()


class Extension:
    """What a worker is asked to do from outside; bytes in and out, because vLLM's wire knows no tensors here."""

    _shiftdc: Steering
    model_runner: Any

    def shiftdc_install(self) -> list[int]:
        """Put the hooks in place; the decoder layers of this worker."""
        self._shiftdc = Steering(self)
        return sorted(self._shiftdc.layers)

    def shiftdc_rule_out(self, ids: list[int]) -> bool:
        """Give tokens no chance in any answer from now on; whether this worker's logits could be reached."""
        self._shiftdc.ruled_out = torch.tensor(ids, device=self._shiftdc.device) if ids else None
        return bool(self._shiftdc.heads)

    def shiftdc_plan(self, name: str, packed: bytes) -> None:
        """Learn a plan."""
        self._shiftdc.plans[name] = Plan.unpacked(packed).to(self._shiftdc.device)

    def shiftdc_put(self, keys: list[str], layers: list[int], packed: bytes) -> None:
        """Keep a vector a request and layer: `[requests, layers, hidden]`."""
        steering, vectors = self._shiftdc, load(packed)["vectors"].to(self._shiftdc.device)
        for key, own in zip(keys, vectors, strict=True):
            steering.kept[key] = {
                layer: own[at] for at, layer in enumerate(layers) if layer in steering.layers
            }

    def shiftdc_take(self, keys: list[str]) -> bytes:
        """Activations that were read: `[requests, hidden]` for each layer of this worker."""
        kept = [self._shiftdc.kept[key] for key in keys]
        stacked = {str(layer): torch.stack([one[layer] for one in kept]).cpu() for layer in kept[0]}
        return bytes(save(stacked)) if stacked else b""

    def shiftdc_free(self, keys: list[str]) -> int:
        """Forget what is kept; how many entries are left."""
        for key in keys:
            self._shiftdc.kept.pop(key, None)
        return len(self._shiftdc.kept)

    def shiftdc_report(self, keys: list[str], unused: list[str]) -> str:
        """JSON: edits of these requests, and those of them that went on from stored blocks; told once.

        Args:
            keys: the requests.
            unused: what need not be kept any longer.
        """
        self.shiftdc_free(unused)
        steering = self._shiftdc
        restored = steering.steps.restored.intersection(keys)
        steering.steps.restored -= restored
        return json.dumps(
            {
                "layers": sorted(steering.layers),
                "passes": {key: steering.passes.pop(key) for key in keys if key in steering.passes},
                "made": {key: steering.made.pop(key) for key in keys if key in steering.made},
                "restored": sorted(restored),
            }
        )

    def shiftdc_norm(self, packed: bytes) -> bytes:
        """The decoder's final norm of `[rows, hidden]`; empty on a worker without it."""
        norm = getattr(self._shiftdc.decoder, "norm", None)
        if norm is None or type(norm).__name__ == "PPMissingLayer":
            return b""
        dtype = next(self.model_runner.model.parameters()).dtype
        with torch.inference_mode():
            normed = norm(load(packed)["rows"].to(self._shiftdc.device, dtype).contiguous())
        return bytes(save({"rows": normed.cpu().contiguous()}))
