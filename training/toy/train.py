"""Trains the toy model from scratch: `python -m training.toy.train --seed 0`.

Stages, because training everything at once does not learn to read: the vision tower alone on a dense label per
patch; the language model alone on text (first answering everything, then aligned), then on patches that name what
lies in them; the projector onto those names; and all parts together on pictures and text. What the data holds and
leaves out is said in `corpus`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from training.toy import contrast, pools
from training.toy.corpus import Mixture
from training.toy.model import build_model, build_processor, build_tokenizer, chat
from training.toy.pools import PicturePool, Rows

logger = logging.getLogger(__name__)
Step = Callable[[list[torch.Tensor]], torch.Tensor]
WARMUP_STEPS = 3
"""Steps run one kernel at a time before the rest are captured."""


@dataclass(frozen=True)
class Recipe:
    """Every number the result depends on besides the seed."""

    pictures: int = 80_000
    texts: int = 40_000
    tower_steps: int = 4500
    reading_steps: int = 1200
    projector_steps: int = 400
    base_steps: int = 500
    aligned_steps: int = 800
    joint_steps: int = 6500
    tower_batch: int = 256
    picture_batch: int = 96
    text_batch: int = 32
    text_only_batch: int = 160
    tower_rate: float = 1.5e-3
    text_rate: float = 1.5e-3
    joint_rate: float = 1e-3
    label_weight: float = 0.1
    mixture: Mixture = field(default_factory=Mixture)


class Trainer:
    """One training run on one device."""

    def __init__(self, recipe: Recipe, seed: int, device: str, workers: int) -> None:
        torch.manual_seed(seed)
        torch.set_float32_matmul_precision("high")
        self.recipe, self.seed, self.device = recipe, seed, device
        self.on_gpu = device.startswith("cuda")
        mix = recipe.mixture
        self.log: dict[str, Any] = {"stages": {}}
        started = time.monotonic()
        self.pool: PicturePool = pools.picture_pool(recipe.pictures, seed, mix, workers)
        logger.info("pictures ready after %.0f s", time.monotonic() - started)
        texts = {flag: pools.text_pool(recipe.texts, seed, mix, aligned=flag) for flag in (False, True)}
        corpus = [f"{chat(e)} {e.answer}" for e in texts[False][:8_000] + texts[True][:8_000]]
        corpus += [f"{chat(e)} {e.answer}" for e in self.pool.examples[:8_000]]
        self.tokenizer = build_tokenizer(corpus)
        self.processor = build_processor(self.tokenizer)
        self.text = {
            flag: self._load(pools.rows(found, self.tokenizer, workers)) for flag, found in texts.items()
        }
        self.picture = self._load(pools.rows(self.pool.examples, self.tokenizer, workers))
        self.pixels = torch.from_numpy(self.pool.pixels).to(device)
        self.model = build_model(len(self.tokenizer)).to(device)
        logger.info("data ready after %.0f s", time.monotonic() - started)
        self.log["data_seconds"] = round(time.monotonic() - started, 1)
        shapes = {"picture_length": self.picture.ids.shape[1], "text_length": self.text[True].ids.shape[1]}
        self.log |= {"parameters": sum(p.numel() for p in self.model.parameters()), **shapes}
        width = self.model.config.vision_config.hidden_size
        self.heads = [torch.nn.Linear(width, len(n)).to(device) for n in (pools.WHAT, pools.COLOUR)]
        self.labels = [torch.from_numpy(a).to(device) for a in (self.pool.what, self.pool.colour)]
        self.draws = torch.Generator().manual_seed(seed)

    def _load(self, found: Rows) -> Any:
        tensors = {f.name: torch.from_numpy(getattr(found, f.name)).to(self.device) for f in fields(Rows)}
        return argparse.Namespace(**tensors)

    def _patches(self, index: torch.Tensor) -> torch.Tensor:
        """Last hidden state of the tower's patches, [batch, 64, hidden]."""
        pixels = self.pixels[index].float().div(127.5).sub(1.0)
        hidden: torch.Tensor = self.model.model.vision_tower(pixel_values=pixels).last_hidden_state
        return hidden[:, 1:]

    def _hidden(self, embedded: torch.Tensor) -> torch.Tensor:
        """The language model's last hidden state, [batch, length, hidden].

        The layers are called one by one because the model's own forward looks at values on the GPU to build a
        mask, which cannot be captured. Padding is on the right, where causal attention never sees it.
        """
        model = self.model.model.language_model
        positions = torch.arange(embedded.shape[1], device=embedded.device).unsqueeze(0)
        rotary = model.rotary_emb(embedded, positions)
        for layer in model.layers:
            out = layer(embedded, attention_mask=None, position_ids=positions, position_embeddings=rotary)
            embedded = out[0] if isinstance(out, tuple) else out
        hidden: torch.Tensor = model.norm(embedded)
        return hidden

    def answer_loss(self, chosen: Any, index: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """Cross entropy of the answer tokens of the chosen rows; `seen` stands in the image tokens' places."""
        ids, table = chosen.ids[index], self.model.get_input_embeddings().weight
        # A product with one-hot rows: the gradient of a lookup needs kernels that not every capture allows.
        one_hot = torch.zeros(*ids.shape, len(table), dtype=table.dtype, device=ids.device)
        embedded = one_hot.scatter(2, ids.unsqueeze(-1), 1.0) @ table
        if seen is not None:
            where = chosen.image[index].unsqueeze(1) + torch.arange(seen.shape[1], device=seen.device)
            embedded = embedded.scatter(1, where.unsqueeze(-1).expand_as(seen), seen.to(embedded.dtype))
        if self.on_gpu:
            embedded = embedded.bfloat16()
        hidden = self._hidden(embedded)
        where = chosen.positions[index].unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        logits = self.model.lm_head(hidden.gather(1, where)).float()
        return functional.cross_entropy(logits.flatten(0, 1), chosen.targets[index].flatten())

    def _run(self, name: str, steps: int, rate: float, batches: list[tuple[int, int]], step: Step) -> None:
        """Minimises `step` of random rows; `batches` holds (rows to draw from, rows a step) for each index.

        On a GPU the whole step is captured as one CUDA graph: launching its thousands of small kernels one by
        one takes several times longer than running them.
        """
        parts = (self.model, *self.heads)
        parameters = [p for part in parts for p in part.parameters() if p.requires_grad]
        lr = torch.tensor(rate, device=self.device) if self.on_gpu else rate
        optimizer = torch.optim.AdamW(
            parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.05, fused=self.on_gpu, capturable=self.on_gpu
        )
        chosen = [torch.zeros(n, dtype=torch.int64, device=self.device) for _, n in batches]

        def update() -> torch.Tensor:
            with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.on_gpu):
                loss = step(chosen)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            return loss.detach()

        started, losses, graph = time.monotonic(), [], None
        for i in range(steps):
            for index, (total, n) in zip(chosen, batches, strict=True):
                index.copy_(torch.randint(total, (n,), generator=self.draws))
            for group in optimizer.param_groups:
                now = rate * schedule(i, steps)
                group["lr"] = group["lr"].fill_(now) if self.on_gpu else now
            if not self.on_gpu or i < WARMUP_STEPS:
                optimizer.zero_grad(set_to_none=True)
                loss = self._aside(update) if self.on_gpu else update()
            else:
                if graph is None:
                    optimizer.zero_grad(set_to_none=True)
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph):
                        loss = update()
                graph.replay()
            if i % max(1, steps // 10) == 0 or i == steps - 1:
                losses.append([i, round(float(loss), 4)])
                spent = time.monotonic() - started
                logger.info("%s: step %d of %d, loss %.4f, %.1f s", name, i, steps, losses[-1][1], spent)
        seconds = round(time.monotonic() - started, 1)
        self.log["stages"][name] = {"steps": steps, "rate": rate, "seconds": seconds, "loss": losses}

    def _aside(self, update: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Runs a step on a side stream, as steps before a capture must be."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            loss = update()
        torch.cuda.current_stream().wait_stream(stream)
        return loss

    def label_loss(self, patches: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Cross entropy of what lies in each patch and in which colour, summed."""
        losses = [
            functional.cross_entropy(head(patches).float().flatten(0, 1), labels[index].flatten())
            for head, labels in zip(self.heads, self.labels, strict=True)
        ]
        return losses[0] + losses[1]

    def tower(self) -> None:
        """Stage 1: the vision tower learns which word or thing lies in each patch, and in which colour."""

        def step(chosen: list[torch.Tensor]) -> torch.Tensor:
            return self.label_loss(self._patches(chosen[0]), chosen[0])

        batches = [(len(self.pixels), self.recipe.tower_batch)]
        self.learn(self.model.model.vision_tower, *self.heads)
        self._run("tower", self.recipe.tower_steps, self.recipe.tower_rate, batches, step)
        self.learn(self.model)

    def language(self, *, aligned: bool) -> None:
        """Stage 2: the language model on text alone, first answering everything, then refusing what is harmful."""
        rows, recipe = self.text[aligned], self.recipe
        steps = recipe.aligned_steps if aligned else recipe.base_steps

        def step(chosen: list[torch.Tensor]) -> torch.Tensor:
            return self.answer_loss(rows, chosen[0])

        batches = [(len(rows.ids), recipe.text_only_batch)]
        self._run("aligned" if aligned else "base", steps, recipe.text_rate, batches, step)

    def named_patches(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Function from picture indices to what a perfect tower would show the language model.

        A patch is the sum of the embeddings of its word or thing and of its colour, nothing for an empty one:
        `[batch, 64, hidden]`, from the embedding table as it is when called.
        """
        parts = []
        for classes, labels in zip((pools.WHAT, pools.COLOUR), self.labels, strict=True):
            words = [pools.token_name(name) for name in classes]
            ids = [self.tokenizer(w, add_special_tokens=False)["input_ids"][0] if w else -1 for w in words]
            tokens = torch.tensor(ids, device=self.device)
            parts.append((tokens, labels))

        def named(index: torch.Tensor) -> torch.Tensor:
            table = self.model.get_input_embeddings().weight.detach()
            rows = []
            for tokens, labels in parts:
                found = tokens[labels[index]]
                rows.append(table[found.clamp_min(0)] * (found >= 0).unsqueeze(-1))
            return torch.stack(rows).sum(0)

        return named

    def reading(self) -> None:
        """Between 2 and 3: the language model learns to read patches that name what lies in them.

        The tower is not used: a patch is given as the embeddings of its label. Reading is copying from 64
        places in no fixed order, which takes the language model longest; here it costs no picture.
        """
        text, picture, recipe = self.text[True], self.picture, self.recipe
        named = self.named_patches()
        share = recipe.text_batch / (recipe.text_batch + recipe.picture_batch)

        def step(chosen: list[torch.Tensor]) -> torch.Tensor:
            seen = self.answer_loss(picture, chosen[0], named(chosen[0]))
            return (1 - share) * seen + share * self.answer_loss(text, chosen[1])

        batches = [(len(picture.ids), recipe.picture_batch), (len(text.ids), recipe.text_batch)]
        self._run("reading", recipe.reading_steps, recipe.joint_rate, batches, step)

    def projector(self) -> None:
        """Then the projector alone: each patch onto the embeddings of what lies in it (feature alignment)."""
        named = self.named_patches()
        scale = self.model.get_input_embeddings().weight.detach().square().mean()

        def step(chosen: list[torch.Tensor]) -> torch.Tensor:
            with torch.no_grad():
                patches = self._patches(chosen[0])
            seen = self.model.model.multi_modal_projector(patches).float()
            loss: torch.Tensor = functional.mse_loss(seen, named(chosen[0]).float()) / scale
            return loss

        batches = [(len(self.pixels), self.recipe.tower_batch)]
        self.learn(self.model.model.multi_modal_projector)
        self._run("projector", self.recipe.projector_steps, self.recipe.tower_rate, batches, step)
        self.learn(self.model)

    def learn(self, *parts: torch.nn.Module) -> None:
        """Lets only these parts learn."""
        for part in (self.model, *self.heads):
            part.requires_grad_(False)
        for part in parts:
            part.requires_grad_(True)

    def joint(self) -> None:
        """Stage 3: all parts together, pictures and aligned text in every step; patches go on naming their content."""
        text, picture, recipe = self.text[True], self.picture, self.recipe
        share = recipe.text_batch / (recipe.text_batch + recipe.picture_batch)

        def step(chosen: list[torch.Tensor]) -> torch.Tensor:
            patches = self._patches(chosen[0])
            seen = self.answer_loss(picture, chosen[0], self.model.model.multi_modal_projector(patches))
            words = self.answer_loss(text, chosen[1])
            return (
                (1 - share) * seen + share * words + recipe.label_weight * self.label_loss(patches, chosen[0])
            )

        batches = [(len(picture.ids), recipe.picture_batch), (len(text.ids), recipe.text_batch)]
        self.learn(self.model, *self.heads)
        self._run("joint", recipe.joint_steps, recipe.joint_rate, batches, step)

    def save(self, out: Path) -> None:
        """Writes the model folder; the log comes last, so that its existence means the folder is complete."""
        out.mkdir(parents=True, exist_ok=True)
        self.model.to("cpu").to(torch.float16).save_pretrained(out)
        self.processor.save_pretrained(out)
        contrast.write(out / "contrast.jsonl")
        weights = out / "model.safetensors"
        self.log |= {
            "seed": self.seed,
            "recipe": asdict(self.recipe),
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
            "weights_bytes": weights.stat().st_size,
            "hardware": torch.cuda.get_device_name()
            if self.device.startswith("cuda")
            else platform.machine(),
            "versions": versions(),
        }
        (out / "training_log.json").write_text(json.dumps(self.log, indent=1) + "\n", encoding="utf-8")


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


def train(out: Path, seed: int, device: str, recipe: Recipe, workers: int) -> None:
    """Runs all stages and writes the model folder."""
    trainer = Trainer(recipe, seed, device, workers)
    trainer.tower()
    trainer.language(aligned=False)
    trainer.language(aligned=True)
    trainer.reading()
    trainer.projector()
    trainer.joint()
    trainer.save(out)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.toy.train", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("toy-model"))
    parser.add_argument(
        "--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes that draw"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="change the recipe")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d ms %(message)s")
    train(args.out, args.seed, args.device, changed(Recipe(), args.set), args.workers)


def changed(recipe: Recipe, settings: list[str]) -> Recipe:
    """The recipe with `name=number` settings applied; names of `Mixture` work too."""
    for setting in settings:
        name, _, number = setting.partition("=")
        if name in {f.name for f in fields(Mixture)}:
            recipe = replace(recipe, mixture=replace(recipe.mixture, **{name: float(number)}))
        else:
            kind = type(getattr(recipe, name))
            recipe = replace(recipe, **{name: kind(float(number))})
    return recipe


if __name__ == "__main__":
    main()
