"""Trains the small research model: `python -m shiftdc_eval.toy.train_smol --out FOLDER --seed 0`.

Stages, each of which leaves a file in the output folder and is skipped when its file is there: the corpus (the base
model's own topics and answers), the vision tower with the projector (reading characters and tokens), the language
model (alignment on text alone), and both together on pictures with benign requests. See `smol.corpus` for what the
data holds and leaves out.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import logging
import math
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shiftdc_eval.smol import answers, phrases, pools
from shiftdc_eval.smol.base import SHA256, base_file
from shiftdc_eval.smol.drawing import CLASSES, SLOTS
from shiftdc_eval.smol.merge import read_base
from shiftdc_eval.smol.model import (
    GREY,
    IMAGE_TOKENS,
    build_config,
    build_processor,
    build_tokenizer,
    linears,
)

logger = logging.getLogger(__name__)
Step = Callable[[dict[str, Tensor]], Tensor]
WARMUP_STEPS = 3




@dataclass(frozen=True)
class Recipe:
    """Every number the result depends on besides the seed."""

    own_phrases: int = 2000
    """At most so many of our own benign phrases."""
    made_phrases: int = 9000
    """How many phrases the base begins; about half are of use."""
    captions: int = 240_000
    answers: int = 100_000
    texts: int = 160_000
    kept: int = 500
    """Rows of each kind that are kept for the running score."""
    rank: int = 64
    width: int = 384
    layers: int = 6
    tower_steps: int = 8000
    language_steps: int = 1200
    reading_steps: int = 2500
    joint_steps: int = 4000
    tower_batch: int = 256
    text_batch: int = 64
    reading_captions: int = 64
    reading_texts: int = 24
    joint_captions: int = 32
    joint_answers: int = 32
    joint_texts: int = 40
    tower_rate: float = 1e-3
    language_rate: float = 6e-4
    joint_rate: float = 6e-4
    joint_tower_rate: float = 2e-4
    label_weight: float = 0.1
    text_weight: float = 0.5
    answer_weight: float = 0.5


class LowRank(torch.nn.Module):
    """A frozen weight and the low-rank difference to it that is learned: `W + b a`."""

    def __init__(self, weight: Tensor, rank: int, draws: torch.Generator) -> None:
        super().__init__()
        out, into = weight.shape
        self.register_buffer("weight", weight.detach().clone(), persistent=False)
        start = torch.randn(rank, into, generator=draws) / math.sqrt(into)
        self.a = torch.nn.Parameter(start.to(weight.device))
        self.b = torch.nn.Parameter(torch.zeros(out, rank, device=weight.device))

    def full(self, dtype: torch.dtype) -> Tensor:
        """The weight with its difference, `[out, in]`."""
        return (self.weight + self.b @ self.a).to(dtype)


def block(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    norms: Sequence[Tensor],
    w: Sequence[Tensor],
    heads: int,
    kv: int,
    eps: float,
) -> Tensor:
    """One decoder layer of Llama as a function of its weights (q, k, v, o, gate, up, down), causal.

    Args:
        x: `[batch, length, hidden]`.
        cos: rotary cosines, `[length, head]`; `sin` likewise.
        norms: weights of the two norms.
        w: the seven matrices.
        heads: attention heads.
        kv: key-value heads.
        eps: of the norms.
    """
    batch, length, _ = x.shape

    def normed(h: Tensor, weight: Tensor) -> Tensor:
        f = h.float()
        return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + eps)).to(h.dtype) * weight

    def turned(h: Tensor) -> Tensor:
        half = h.shape[-1] // 2
        return h * cos + torch.cat((-h[..., half:], h[..., :half]), dim=-1) * sin

    h = normed(x, norms[0])
    q, k, v = (
        functional.linear(h, m).view(batch, length, n, -1).transpose(1, 2)
        for m, n in zip(w[:3], (heads, kv, kv), strict=True)
    )
    k, v = (t.repeat_interleave(heads // kv, dim=1) for t in (turned(k), v))
    seen = functional.scaled_dot_product_attention(turned(q), k, v, is_causal=True)
    x = x + functional.linear(seen.transpose(1, 2).reshape(batch, length, -1), w[3])
    h = normed(x, norms[1])
    return x + functional.linear(
        functional.silu(functional.linear(h, w[4])) * functional.linear(h, w[5]), w[6]
    )


NAMES = (*(f"self_attn.{n}_proj" for n in "qkvo"), *(f"mlp.{n}_proj" for n in ("gate", "up", "down")))


class Trainer:
    """Holds the model and data, and runs the stages."""

    def __init__(
        self, recipe: Recipe, seed: int, device: str, base: Path, out: Path, *, compiled: bool
    ) -> None:
        from transformers import AutoTokenizer, LlavaForConditionalGeneration

        self.recipe, self.seed, self.device, self.out = recipe, seed, device, out
        self.on_gpu = device.startswith("cuda")
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        self.log: dict[str, Any] = {"stages": {}}
        torch.manual_seed(seed)
        self.tokenizer = AutoTokenizer.from_pretrained(out)
        config = build_config(base.config, self.tokenizer, width=recipe.width, layers=recipe.layers)
        self.model: Any = LlavaForConditionalGeneration(config).float()
        self.model.model.language_model.load_state_dict(base.model.state_dict())
        self.processor = build_processor(self.tokenizer)
        self.model.to(device).train()
        self.model.requires_grad_(False)
        draws = torch.Generator().manual_seed(seed)
        self.low = {n: LowRank(m.weight, recipe.rank, draws) for n, m in linears(self.model).items()}
        width = recipe.width
        self.character_head = torch.nn.Linear(width, SLOTS * CLASSES).to(device)
        self.temperature = torch.nn.Parameter(torch.tensor(0.0, device=device))
        self.before = pools.tokens_before_image(self.tokenizer)
        self.table = self.model.get_input_embeddings().weight.detach().to(self.dtype)
        self.block = torch.compile(block, dynamic=False) if compiled else block
        self.draws = torch.Generator().manual_seed(seed + 1)
        self.store: dict[str, dict[str, Tensor]] = {}
        self.filled: dict[str, int] = {}
        self.kept: dict[str, dict[str, Tensor]] = {}

    # data

    def supply(self, fonts: Path, workers: int) -> None:
        """Starts the worker processes and waits for the first chunks of every kind."""
        recipe = self.recipe
        wanted = {"caption": recipe.captions, "answer": recipe.answers, "text": recipe.texts}
        self.incoming = pools.Supply(self.out, fonts, wanted, self.seed, workers)
        self.capacity = {kind: n + pools.CHUNK for kind, n in wanted.items()}
        while any(self.filled.get(kind, 0) < pools.CHUNK for kind in wanted):
            self.receive(wait=True)

    def receive(self, *, wait: bool = False) -> None:
        """Puts the next chunk of rows on the device when one is ready."""
        found = self.incoming.take(wait=wait)
        if found is None:
            return
        kind, rows = found
        named = {name: torch.from_numpy(array) for name, array in pools.arrays(rows).items() if len(array)}
        if kind not in self.kept:
            self.kept[kind] = {name: t[: self.recipe.kept].to(self.device) for name, t in named.items()}
            return
        if kind not in self.store:
            self.store[kind] = {
                name: torch.empty((self.capacity[kind], *t.shape[1:]), dtype=t.dtype, device=self.device)
                for name, t in named.items()
            }
            self.filled[kind] = 0
        start = self.filled[kind]
        for name, t in named.items():
            self.store[kind][name][start : start + len(t)].copy_(t)
        self.filled[kind] = start + len(next(iter(named.values())))

    # the model

    def patches(self, pixels: Tensor) -> Tensor:
        """Last hidden state of the tower's patches, `[batch, 256, width]`; pixels are grey, uint8."""
        shown = pixels.to(self.dtype).div(127.5).sub(1.0).unsqueeze(1).expand(-1, 3, -1, -1)
        hidden: Tensor = self.model.model.vision_tower(pixel_values=shown).last_hidden_state
        return hidden[:, 1:]

    def projected(self, patches: Tensor) -> Tensor:
        """Patches as the language model sees them, `[batch, 256, hidden]`."""
        out: Tensor = self.model.model.multi_modal_projector(patches)
        return out

    def weights(self) -> list[list[Tensor]]:
        """The decoder's matrices with their differences, a list a layer."""
        layers = len(self.model.model.language_model.layers)
        prefix = "model.language_model.layers"
        return [[self.low[f"{prefix}.{i}.{name}"].full(self.dtype) for name in NAMES] for i in range(layers)]

    def hidden(self, embedded: Tensor, weights: list[list[Tensor]]) -> Tensor:
        """The language model's last hidden state, `[batch, length, hidden]`; padding is on the right."""
        language = self.model.model.language_model
        text = language.config
        positions = torch.arange(embedded.shape[1], device=embedded.device).unsqueeze(0)
        cos, sin = (t[0].to(self.dtype) for t in language.rotary_emb(embedded, positions))
        x = embedded.to(self.dtype)
        for layer, matrices in zip(language.layers, weights, strict=True):
            norms = [n.weight.to(self.dtype) for n in (layer.input_layernorm, layer.post_attention_layernorm)]
            x = self.block(
                x,
                cos,
                sin,
                norms,
                matrices,
                text.num_attention_heads,
                text.num_key_value_heads,
                text.rms_norm_eps,
            )
        out: Tensor = language.norm(x)
        return out

    def answer_logits(
        self, rows: dict[str, Tensor], weights: list[list[Tensor]], seen: Tensor | None
    ) -> Tensor:
        """Logits at the answer positions, `[batch, A, vocabulary]`; `seen` stands in the image's places."""
        embedded = functional.embedding(rows["ids"], self.table)
        positions = rows["positions"].long()
        if seen is not None:
            embedded = torch.cat(
                (embedded[:, : self.before], seen.to(self.dtype), embedded[:, self.before :]), dim=1
            )
            positions = positions + IMAGE_TOKENS
        hidden = self.hidden(embedded, weights)
        chosen = hidden.gather(1, positions.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        return functional.linear(chosen, self.table)

    def answer_loss(
        self, rows: dict[str, Tensor], weights: list[list[Tensor]], seen: Tensor | None = None
    ) -> Tensor:
        """Cross entropy of the answer tokens."""
        logits = self.answer_logits(rows, weights, seen)
        return functional.cross_entropy(logits.flatten(0, 1).float(), rows["targets"].flatten().long())

    def label_loss(self, rows: dict[str, Tensor], patches: Tensor, seen: Tensor) -> Tensor:
        """Cross entropy of each patch's characters and, where a token ends, of that token by its embedding."""
        labels = rows["characters"].long()
        logits = self.character_head(patches).float().unflatten(-1, (SLOTS, CLASSES))
        losses = functional.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none")
        there = (labels.flatten() > 0).float()
        blank = 1.0 - there
        characters = (losses * there).sum() / there.sum() + (losses * blank).sum() / blank.sum()
        places = rows["token_places"].long()
        at = places.clamp_min(0).unsqueeze(-1).expand(-1, -1, seen.shape[-1])
        vectors = seen.gather(1, at).to(self.dtype) * self.temperature.exp().to(self.dtype)
        targets = rows["tokens"].long().masked_fill(places < 0, -100)
        tokens = functional.cross_entropy(
            functional.linear(vectors, self.table).flatten(0, 1).float(), targets.flatten()
        )
        wanted = functional.embedding(rows["tokens"], self.table)
        there = (places >= 0).unsqueeze(-1)
        near = ((seen.gather(1, at).float() - wanted.float()).square() * there).mean() / self.scale
        # patches without a token's end stay near nothing, so that the language model reads no noise
        ends = torch.zeros(seen.shape[:2], device=seen.device).scatter(1, places.clamp_min(0), 1.0)
        calm = (seen.float().square().mean(-1) * (1 - ends)).mean() / self.scale
        return characters + tokens + 0.5 * near + 0.1 * calm

    # stages

    def draw(self, counts: dict[str, int]) -> dict[str, Tensor]:
        """Random rows to take, kind -> `[n]`."""
        return {k: torch.randint(self.filled[k], (n,), generator=self.draws) for k, n in counts.items()}

    def rows(self, kind: str, index: Tensor) -> dict[str, Tensor]:
        """The chosen rows of one kind."""
        return {name: t[index] for name, t in self.store[kind].items()}

    def run(
        self,
        name: str,
        steps: int,
        groups: list[tuple[list[torch.nn.Parameter], float]],
        counts: dict[str, int],
        step: Step,
    ) -> None:
        """Minimises `step` over random rows; on a GPU each step is one replay of a captured graph."""
        optimizer = torch.optim.AdamW(
            [
                {
                    "params": params,
                    "lr": torch.tensor(rate, device=self.device) if self.on_gpu else rate,
                    "peak": rate,
                }
                for params, rate in groups
            ],
            betas=(0.9, 0.98),
            weight_decay=0.01,
            fused=self.on_gpu,
            capturable=self.on_gpu,
        )
        learned = [p for params, _ in groups for p in params]
        for p in learned:
            p.requires_grad_(True)
        chosen = {k: torch.zeros(n, dtype=torch.int64, device=self.device) for k, n in counts.items()}

        def update() -> Tensor:
            with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.on_gpu):
                loss = step(chosen)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            return loss.detach()

        started, losses, graph = time.monotonic(), [], None
        loss = torch.zeros(())
        for i in range(steps):
            self.receive()
            for kind, index in self.draw(counts).items():
                chosen[kind].copy_(index, non_blocking=True)
            for group in optimizer.param_groups:
                now = group["peak"] * schedule(i, steps)
                group["lr"] = group["lr"].fill_(now) if self.on_gpu else now
            if not self.on_gpu or i < WARMUP_STEPS:
                optimizer.zero_grad(set_to_none=True)
                loss = self._aside(update) if self.on_gpu else update()
            else:
                if graph is None:
                    optimizer.zero_grad(set_to_none=True)
                    torch.cuda.synchronize()
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                        loss = update()
                graph.replay()
            if i % max(1, steps // 10) == 0 or i == steps - 1:
                losses.append([i, round(float(loss), 4)])
                spent = time.monotonic() - started
                logger.info(
                    "%s: step %d of %d, loss %.4f, %.1f s, rows %s",
                    name,
                    i,
                    steps,
                    losses[-1][1],
                    spent,
                    self.filled,
                )
        for p in learned:
            p.requires_grad_(False)
            p.grad = None
        score = self.score()
        logger.info("%s: %s", name, score)
        seconds = round(time.monotonic() - started, 1)
        self.log["stages"][name] = {"steps": steps, "seconds": seconds, "loss": losses, "score": score}

    def _aside(self, update: Callable[[], Tensor]) -> Tensor:
        """Runs a step on a side stream, as steps before a capture must be."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loss = update()
        torch.cuda.current_stream().wait_stream(stream)
        return loss

    @torch.no_grad()
    def score(self) -> dict[str, float]:
        """Shares of kept rows: characters right, tokens right, and answers right in every token (teacher-forced)."""
        found: dict[str, list[float]] = {}
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.on_gpu):
            weights = self.weights()
            for kind, kept in self.kept.items():
                for start in range(0, len(kept["ids"]), 50):
                    rows = {name: t[start : start + 50] for name, t in kept.items()}
                    seen = None
                    if kind != "text":
                        patches = self.patches(rows["pixels"])
                        seen = self.projected(patches)
                        logits = self.character_head(patches).unflatten(-1, (SLOTS, CLASSES))
                        there = rows["characters"] > 0
                        right = (logits.argmax(-1) == rows["characters"])[there].float().mean()
                        found.setdefault("characters", []).append(float(right))
                        places = rows["token_places"].long()
                        at = places.clamp_min(0).unsqueeze(-1).expand(-1, -1, seen.shape[-1])
                        named = functional.linear(seen.gather(1, at).to(self.dtype), self.table).argmax(-1)
                        found.setdefault("tokens", []).append(
                            float((named == rows["tokens"])[places >= 0].float().mean())
                        )
                    said = self.answer_logits(rows, weights, seen).argmax(-1)
                    whole = ((said == rows["targets"]) | (rows["targets"] < 0)).all(-1).float().mean()
                    found.setdefault(f"{kind} exact", []).append(float(whole))
        return {name: round(sum(values) / len(values), 4) for name, values in found.items()}

    @property
    def tower_parameters(self) -> list[torch.nn.Parameter]:
        heads = [*self.character_head.parameters(), self.temperature]
        return [*self.model.model.vision_tower.parameters(), *heads]

    @property
    def projector_parameters(self) -> list[torch.nn.Parameter]:
        return list(self.model.model.multi_modal_projector.parameters())

    @property
    def language_parameters(self) -> list[torch.nn.Parameter]:
        return [p for low in self.low.values() for p in low.parameters()]

    def tower(self) -> None:
        """The tower reads characters; the projector turns a token's last patch into that token's embedding."""
        self.scale = self.model.get_input_embeddings().weight.detach().square().mean()

        def step(chosen: dict[str, Tensor]) -> Tensor:
            rows = self.rows("caption", chosen["caption"])
            patches = self.patches(rows["pixels"])
            return self.label_loss(rows, patches, self.projected(patches))

        recipe = self.recipe
        groups = [(self.tower_parameters + self.projector_parameters, recipe.tower_rate)]
        self.run("tower", recipe.tower_steps, groups, {"caption": recipe.tower_batch}, step)

    def language(self) -> None:
        """The language model learns from text alone what to refuse, and keeps its own answers to the rest."""

        def step(chosen: dict[str, Tensor]) -> Tensor:
            return self.answer_loss(self.rows("text", chosen["text"]), self.weights())

        recipe = self.recipe
        groups = [(self.language_parameters, recipe.language_rate)]
        self.run("language", recipe.language_steps, groups, {"text": recipe.text_batch}, step)

    def together(self, name: str, steps: int, counts: dict[str, int]) -> None:
        """All parts on pictures with benign requests, the aligned text going on."""
        recipe = self.recipe

        def step(chosen: dict[str, Tensor]) -> Tensor:
            weights = self.weights()
            total = recipe.text_weight * self.answer_loss(self.rows("text", chosen["text"]), weights)
            for kind, weight in (("caption", 1.0), ("answer", recipe.answer_weight)):
                if kind not in chosen:
                    continue
                rows = self.rows(kind, chosen[kind])
                patches = self.patches(rows["pixels"])
                seen = self.projected(patches)
                total = total + weight * self.answer_loss(rows, weights, seen)
                if kind == "caption":
                    total = total + recipe.label_weight * self.label_loss(rows, patches, seen)
            return total

        groups = [
            (self.language_parameters + self.projector_parameters, recipe.joint_rate),
            (self.tower_parameters, recipe.joint_tower_rate),
        ]
        self.run(name, steps, groups, counts, step)

    # files

    def state(self) -> dict[str, Tensor]:
        """The difference to the base: tower, projector and low-rank matrices, in 32 bit on the CPU.

        The tower sees grey pixels three times; the file's first layer weighs red, green and blue by lightness.
        """
        kept = {
            k: v
            for k, v in self.model.state_dict().items()
            if ".vision_tower." in k or ".multi_modal_projector." in k
        }
        found = {k: v.detach().float().cpu() for k, v in kept.items() if v.is_floating_point()}
        for name in found:
            if name.endswith("patch_embedding.weight"):
                grey = found[name].sum(1, keepdim=True)
                found[name] = grey * torch.tensor(GREY).view(1, 3, 1, 1)
        for name, low in self.low.items():
            found[f"{name}.lora_a"] = low.a.detach().float().cpu()
            found[f"{name}.lora_b"] = low.b.detach().float().cpu()
        return found

    def heads_state(self) -> dict[str, Tensor]:
        """What is learned besides and not shipped."""
        heads = {f"character_head.{k}": v for k, v in self.character_head.state_dict().items()}
        return {k: v.detach().cpu() for k, v in {**heads, "temperature": self.temperature}.items()}

    def save(self, stage: str) -> None:
        """Writes a stage's file; the log comes last, so that its existence means the stage is complete."""
        from safetensors.torch import save_file

        everything = {k: v.contiguous().half() for k, v in {**self.state(), **self.heads_state()}.items()}
        save_file(everything, self.out / f"{stage}.safetensors")
        self.log |= {
            "seed": self.seed,
            "recipe": asdict(self.recipe),
            "hardware": torch.cuda.get_device_name() if self.on_gpu else platform.machine(),
            "versions": versions(),
        }
        (self.out / f"{stage}.json").write_text(json.dumps(self.log, indent=1) + "\n", encoding="utf-8")

    def load(self, stage: str) -> None:
        """Goes on from a stage's file."""
        from safetensors.torch import load_file

        found = load_file(self.out / f"{stage}.safetensors")
        self.log = json.loads((self.out / f"{stage}.json").read_text(encoding="utf-8"))
        with torch.no_grad():
            own = self.model.state_dict()
            for name, value in found.items():
                if name.endswith("patch_embedding.weight"):
                    own[name].copy_(value.float().sum(1, keepdim=True).expand_as(own[name]) / 3)
                elif name in own:
                    own[name].copy_(value)
                elif name.endswith((".lora_a", ".lora_b")):
                    getattr(self.low[name[: -len(".lora_a")]], name[-1]).copy_(value)
            self.temperature.copy_(found["temperature"])
            self.character_head.weight.copy_(found["character_head.weight"])
            self.character_head.bias.copy_(found["character_head.bias"])


def vocabulary(tokenizer: Any) -> list[str]:
    """Words for word salad: the tokenizer's whole words, and rarer ones put together from a word and an ending."""
    whole = sorted(
        t[1:] for t in tokenizer.get_vocab() if t[0] == "Ġ" and t[1:].isalpha() and t.isascii() is False
    )
    plain = [w for w in whole if w.isascii() and 3 <= len(w) <= 13]
    endings = (
        "er",
        "ers",
        "ing",
        "ed",
        "ion",
        "ist",
        "ware",
        "less",
        "ment",
        "age",
        "ly",
        "ize",
        "ation",
        "able",
    )
    rng = random.Random(7)
    rare = [rng.choice(plain) + rng.choice(endings) for _ in range(len(plain) // 8)]
    return [*plain, *(w for w in rare if len(w) <= 14)]


def make_corpus(
    recipe: Recipe,
    seed: int,
    base: Any,
    tokenizer: Any,
    out: Path,
    extra: Sequence[str],
    data: Path | None,
    batch: int,
) -> None:
    """Stage 0: what the base model says itself, without what is too near to an item of an evaluation set.

    Args:
        recipe: how much.
        seed: of the draws.
        base: the base model, where it shall run.
        tokenizer: from `build_tokenizer`.
        out: gets `corpus.json`.
        extra: more harmful requests.
        data: folder of the evaluation sets for the overlap check; None skips it, which the file says.
        batch: requests at a time.
    """
    started = time.monotonic()
    rng = random.Random(seed)
    torch.manual_seed(seed)
    own = [
        p for p in (*phrases.phrases(), *phrases.things()) if not p.harmful and not phrases.held_out(p.text)
    ]
    tailed = [
        replace(p, text=f"{p.text} {t}")
        for p in own
        if p.kind == "benign"
        for t in rng.sample(phrases.tails(harmful=False), 2)
    ]
    made = (
        answers.made_phrases(base, tokenizer, recipe.made_phrases, batch, rng) if recipe.made_phrases else []
    )
    made = [p for p in made if not phrases.held_out(p.text)]
    logger.info("corpus: %d phrases made after %.0f s", len(made), time.monotonic() - started)
    questions = list(phrases.whole_questions())
    rng.shuffle(questions)
    questions = questions[: max(20, recipe.made_phrases // 5)]
    own = [*own, *tailed]
    rng.shuffle(own)
    wanted = [*own[: recipe.own_phrases], *made]
    harmful = [p.text for p in (*phrases.phrases(), *phrases.things()) if p.harmful]
    left_out: list[str] = []
    if data is not None:
        from shiftdc_eval.smol.eval_items import eval_items
        from shiftdc_eval.smol.overlap import overlapping

        everything = [*(p.text for p in wanted), *questions, *harmful, *extra]
        left_out = sorted({pair.text for pair in overlapping(everything, eval_items(data))})
    gone = set(left_out)
    topics, kept = answers.answered(
        base,
        tokenizer,
        [p for p in wanted if p.text not in gone],
        [q for q in questions if q not in gone],
        batch,
        rng,
    )
    found = {
        "topics": [asdict(t) for t in topics],
        "questions": kept,
        "requests": [r for r in extra if r not in gone],
        "vocabulary": vocabulary(tokenizer),
        "left_out": left_out,
        "overlap_checked": data is not None,
        "counts": {
            "asked": len(wanted),
            "made": len(made),
            "topics": len(topics),
            "questions": len(kept),
            "left_out": len(gone),
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    logger.info("corpus: %s, %.0f s", found["counts"], found["seconds"])
    (out / "corpus.json").write_text(json.dumps(found), encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of everything the weights depend on."""
    import PIL
    import tokenizers
    import transformers

    found = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return found | {m.__name__: m.__version__ for m in (transformers, tokenizers, PIL)}


def schedule(step: int, steps: int) -> float:
    """Share of the peak learning rate at one step: linear warm-up, then a cosine."""
    warmup = max(1, min(200, steps // 10))
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


STAGES = ("tower", "language", "reading", "joint")


def train(args: argparse.Namespace, recipe: Recipe) -> None:
    """Runs the stages whose files are missing."""
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    extra = json.loads(args.requests.read_text(encoding="utf-8")) if args.requests else []
    extra = [r["instruction"] if isinstance(r, dict) else r for r in extra]
    base, tokenizer = read_base(args.base or base_file())
    if not (out / "corpus.json").exists():
        tokenizer = build_tokenizer(tokenizer)
        tokenizer.save_pretrained(out)
        half = torch.bfloat16 if args.device.startswith("cuda") else torch.float32
        speaker = copy.deepcopy(base).to(args.device, half).eval()
        # a cast rounds the rotary frequencies too; they must stay as they are
        speaker.model.rotary_emb.inv_freq = base.model.rotary_emb.inv_freq.to(args.device)
        make_corpus(recipe, args.seed, speaker, tokenizer, out, extra, args.data, args.answer_batch)
        del speaker
    trainer = Trainer(recipe, args.seed, args.device, base, out, compiled=args.compile)
    trainer.supply(args.fonts, args.workers)
    done = [stage for stage in STAGES if (out / f"{stage}.json").exists()]
    trainer.scale = trainer.model.get_input_embeddings().weight.detach().square().mean()
    if done:
        trainer.load(done[-1])
    counts = {
        "reading": {"caption": recipe.reading_captions, "text": recipe.reading_texts},
        "joint": {
            "caption": recipe.joint_captions,
            "answer": recipe.joint_answers,
            "text": recipe.joint_texts,
        },
    }
    for stage in STAGES:
        if stage in done:
            continue
        if stage == "tower":
            trainer.tower()
        elif stage == "language":
            trainer.language()
        else:
            steps = recipe.reading_steps if stage == "reading" else recipe.joint_steps
            trainer.together(stage, steps, counts[stage])
        trainer.save(stage)
    pack(trainer, out)


def pack(trainer: Trainer, out: Path) -> None:
    """Writes the difference to the base as it is shipped."""
    from shiftdc_eval.smol.delta import save_delta

    log = (out / f"{STAGES[-1]}.json").read_bytes()
    metadata = {
        "seed": str(trainer.seed),
        "base_sha256": SHA256,
        "rank": str(trainer.recipe.rank),
        "training_log_sha256": hashlib.sha256(log).hexdigest(),
    }
    save_delta(out / "delta.safetensors", trainer.state(), metadata)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m shiftdc_eval.toy.train_smol", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--base", type=Path, help="GGUF file of the base; the one `make smol` installs by default"
    )
    parser.add_argument("--out", type=Path, default=Path("smol-model"))
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts/truetype/freefont"))
    parser.add_argument("--data", type=Path, help="folder of the evaluation sets, for the overlap check")
    parser.add_argument("--requests", type=Path, help="JSON list of more harmful requests to refuse")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--workers", type=int, default=min(15, os.cpu_count() or 1), help="processes that draw"
    )
    parser.add_argument("--answer-batch", type=int, default=1024)
    parser.add_argument("--compile", action="store_true", help="compile the decoder layer")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="change the recipe")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d ms %(message)s")
    train(args, changed(Recipe(), args.set))


def changed(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """The recipe with `name=number` settings applied."""
    known = {f.name for f in fields(Recipe)}
    for setting in settings:
        name, _, number = setting.partition("=")
        if name not in known:
            raise SystemExit(f"--set {setting}: the recipe has no {name}; it has {', '.join(sorted(known))}")
        recipe = replace(recipe, **{name: type(getattr(recipe, name))(float(number))})
    return recipe


if __name__ == "__main__":
    main()
