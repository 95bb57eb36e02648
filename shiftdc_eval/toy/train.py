"""Trains the toy model from scratch: `python -m shiftdc_eval.toy.train --seed 0`.

Three stages, because training everything at once does not learn to read: the vision tower alone on a dense
label per patch, the language model alone on text (first answering everything, then aligned), then all parts
together on pictures and text. What the data holds and leaves out is said in `corpus`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import platform
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from shiftdc_eval.toy import contrast, pools
from shiftdc_eval.toy.corpus import Mixture
from shiftdc_eval.toy.model import build_model, build_processor, build_tokenizer, chat
from shiftdc_eval.toy.pools import PicturePool, Rows

logger = logging.getLogger(__name__)
Step = Callable[[int], torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """Every number the result depends on besides the seed."""

    pictures: int = 60_000
    texts: int = 60_000
    tower_steps: int = 3000
    base_steps: int = 1500
    aligned_steps: int = 2000
    joint_steps: int = 5000
    picture_batch: int = 160
    text_batch: int = 60
    text_only_batch: int = 160
    tower_rate: float = 1.5e-3
    text_rate: float = 1.5e-3
    joint_rate: float = 1e-3
    mixture: Mixture = Mixture()


class Trainer:
    """One training run on one device."""

    def __init__(self, recipe: Recipe, seed: int, device: str, workers: int, *, compiled: bool) -> None:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        torch.set_float32_matmul_precision("high")
        self.recipe, self.seed, self.device = recipe, seed, device
        mix = recipe.mixture
        self.log: dict[str, Any] = {"stages": {}}
        started = time.monotonic()
        self.pool: PicturePool = pools.picture_pool(recipe.pictures, seed, mix, workers)
        texts = {flag: pools.text_pool(recipe.texts, seed, mix, aligned=flag) for flag in (False, True)}
        corpus = [f"{chat(e)} {e.answer}" for e in texts[False][:8_000] + texts[True][:8_000]]
        corpus += [f"{chat(e)} {e.answer}" for e in self.pool.examples[:8_000]]
        self.tokenizer = build_tokenizer(corpus)
        self.processor = build_processor(self.tokenizer)
        self.text = {flag: self._load(pools.rows(found, self.tokenizer)) for flag, found in texts.items()}
        self.picture = self._load(pools.rows(self.pool.examples, self.tokenizer))
        self.pixels = torch.from_numpy(self.pool.pixels).to(device)
        self.model = build_model(len(self.tokenizer)).to(device)
        if compiled:
            for layer in self.model.model.language_model.layers:
                layer.compile()
        logger.info("data ready after %.0f s", time.monotonic() - started)
        self.log["data_seconds"] = round(time.monotonic() - started, 1)
        shapes = {"picture_length": self.picture.ids.shape[1], "text_length": self.text[True].ids.shape[1]}
        self.log |= {"parameters": sum(p.numel() for p in self.model.parameters()), **shapes}
        self.draws = torch.Generator().manual_seed(seed)

    def _load(self, found: Rows) -> Any:
        tensors = {f.name: torch.from_numpy(getattr(found, f.name)).to(self.device) for f in fields(Rows)}
        return argparse.Namespace(**tensors)

    def _pick(self, total: int, n: int) -> torch.Tensor:
        return torch.randint(total, (n,), generator=self.draws).to(self.device, non_blocking=True)

    def _patches(self, index: torch.Tensor) -> torch.Tensor:
        """Last hidden state of the tower's patches, [batch, 64, hidden]."""
        pixels = self.pixels[index].float().div_(127.5).sub_(1.0)
        hidden: torch.Tensor = self.model.model.vision_tower(pixel_values=pixels).last_hidden_state
        return hidden[:, 1:]

    def _answer_loss(
        self, chosen: Any, index: torch.Tensor, patches: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Cross entropy of the answer tokens. Padding is on the right, so causal attention never sees it."""
        ids = chosen.ids[index]
        embedded = self.model.get_input_embeddings()(ids)
        if patches is not None:
            seen = self.model.model.multi_modal_projector(patches).to(embedded.dtype)
            mask = (ids == self.model.config.image_token_id).unsqueeze(-1)
            embedded = embedded.masked_scatter(mask, seen)
        if self.device.startswith("cuda"):
            embedded = embedded.bfloat16()
        hidden = self.model.model.language_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        where = chosen.positions[index].unsqueeze(-1).expand(-1, -1, hidden.shape[-1])
        logits = self.model.lm_head(hidden.gather(1, where)).float()
        return functional.cross_entropy(logits.flatten(0, 1), chosen.targets[index].flatten())

    def _run(
        self, name: str, steps: int, rate: float, parameters: list[torch.nn.Parameter], step: Step
    ) -> None:
        optimizer = torch.optim.AdamW(
            parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.05, fused=self.device.startswith("cuda")
        )
        warmup = max(1, min(200, steps // 10))

        def schedule(i: int) -> float:
            if i < warmup:
                return (i + 1) / warmup
            return 0.02 + 0.98 * 0.5 * (1 + float(np.cos(np.pi * (i - warmup) / max(1, steps - warmup))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        started, losses = time.monotonic(), []
        for i in range(steps):
            with torch.autocast(
                self.device.split(":")[0], torch.bfloat16, enabled=self.device.startswith("cuda")
            ):
                loss = step(i)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            scheduler.step()
            if i % max(1, steps // 10) == 0 or i == steps - 1:
                losses.append([i, round(float(loss.detach()), 4)])
                logger.info("%s: step %d of %d, loss %.4f, %.0f s", name, i, steps, losses[-1][1], time.monotonic() - started)
        seconds = round(time.monotonic() - started, 1)
        self.log["stages"][name] = {"steps": steps, "rate": rate, "seconds": seconds, "loss": losses}

    def tower(self) -> None:
        """Stage 1: the vision tower learns which word or thing lies in each patch, and in which colour."""
        torch.manual_seed(self.seed)
        tower = self.model.model.vision_tower
        width = tower.config.hidden_size
        heads = torch.nn.ModuleList([torch.nn.Linear(width, len(n)) for n in (pools.WHAT, pools.COLOUR)])
        heads.to(self.device)
        what, colour = (torch.from_numpy(a).to(self.device) for a in (self.pool.what, self.pool.colour))

        def step(_: int) -> torch.Tensor:
            index = self._pick(len(what), self.recipe.picture_batch)
            patches = self._patches(index)
            outs = [head(patches).float().flatten(0, 1) for head in heads]
            wanted = [labels[index].flatten() for labels in (what, colour)]
            losses = [functional.cross_entropy(o, w) for o, w in zip(outs, wanted, strict=True)]
            return losses[0] + losses[1]

        parameters = [p for p in [*tower.parameters(), *heads.parameters()] if p.requires_grad]
        self._run("tower", self.recipe.tower_steps, self.recipe.tower_rate, parameters, step)

    def language(self, *, aligned: bool) -> None:
        """Stage 2: the language model on text alone, first answering everything, then refusing what is harmful."""
        chosen = self.text[aligned]
        steps = self.recipe.aligned_steps if aligned else self.recipe.base_steps
        parameters = list(self.model.model.language_model.parameters())

        def step(_: int) -> torch.Tensor:
            return self._answer_loss(chosen, self._pick(len(chosen.ids), self.recipe.text_only_batch))

        self._run("aligned" if aligned else "base", steps, self.recipe.text_rate, parameters, step)

    def joint(self) -> None:
        """Stage 3: all parts together, pictures and aligned text in every step."""
        text, recipe = self.text[True], self.recipe
        share = recipe.text_batch / (recipe.text_batch + recipe.picture_batch)

        def step(_: int) -> torch.Tensor:
            index = self._pick(len(self.picture.ids), recipe.picture_batch)
            seen = self._answer_loss(self.picture, index, self._patches(index))
            read = self._answer_loss(text, self._pick(len(text.ids), recipe.text_batch))
            return (1 - share) * seen + share * read

        self._run("joint", recipe.joint_steps, recipe.joint_rate, list(self.model.parameters()), step)

    def save(self, out: Path) -> None:
        """Writes the model folder; the log comes last, so that its existence means the folder is complete."""
        out.mkdir(parents=True, exist_ok=True)
        for layer in self.model.model.language_model.layers:
            layer._compiled_call_impl = None
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


def train(out: Path, seed: int, device: str, recipe: Recipe, workers: int, *, compiled: bool = False) -> None:
    """Runs all stages and writes the model folder."""
    trainer = Trainer(recipe, seed, device, workers, compiled=compiled)
    trainer.tower()
    trainer.language(aligned=False)
    trainer.language(aligned=True)
    trainer.joint()
    trainer.save(out)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m shiftdc_eval.toy.train", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("toy-model"))
    parser.add_argument(
        "--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes that draw"
    )
    parser.add_argument("--compile", action="store_true", help="compile the decoder layers (faster on a GPU)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER", help="change the recipe")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d ms %(message)s")
    train(args.out, args.seed, args.device, changed(Recipe(), args.set), args.workers, compiled=args.compile)


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
